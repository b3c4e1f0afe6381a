"""Compose a clipping rule: what is measured, where the threshold comes from, what is done."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from tonsor.clip.action import Action, scale, skip
from tonsor.clip.by_norm import factor_to
from tonsor.clip.measure import Measure, Whole
from tonsor.clip.moments import Spikes
from tonsor.clip.parts import Part, grads_of, parts_of
from tonsor.clip.slices import PerElement
from tonsor.clip.threshold import Threshold, fixed
from tonsor.tensors import can_look, joint_norm


class Clip:
    """Clip by any measure, threshold and action; the named rules are points in this product.

    Where the joint norm is not finite nothing is changed and nothing is remembered.

    Args:
        measure: What is measured: `Whole()`, `Group()`, `PerTensor()`, `PerUnit()`, `PerElement()`,
            `Spikes()` or `Updates()`.
        threshold: Where the threshold comes from: `fixed`, `relative`, `Percentile()`, `Deviations()`,
            `ZScore()`, `MovingAverage()` or `Steered()`; tuning of a function is bound with
            `functools.partial`.
        action: What is done with a unit over its threshold: `scale`, `clamp` or `skip`.

    Attributes:
        threshold: The thresholds of the last step, 0-dim or one for each unit; None before the first.
        skip: Whether the last step is to be skipped, a 0-dim bool; None where the action never asks.

    Example:
        >>> from tonsor.clip import PerTensor, Percentile
        >>> rule = Clip(PerTensor(), Percentile(percentile=50))   # AutoClip, each tensor by itself
        >>> w = torch.zeros(1, requires_grad=True)
        >>> for grad in (1.0, 3.0):
        ...     w.grad = torch.tensor([grad]); norm = rule([w])
        >>> norm, w.grad, rule.threshold.tolist()
        (tensor(3.), tensor([2.]), [2.0])
    """

    def __init__(self, measure: Measure, threshold: Threshold = fixed, action: Action = scale, /) -> None:
        self.threshold: Tensor | None = None
        self.skip: Tensor | None = None
        self._measure = measure
        self._threshold = threshold
        self._action = action

    @torch.no_grad()
    def __call__(self, parameters: Sequence[Tensor], /) -> Tensor:
        """Bound the gradients in place and return the joint norm before, 0-dim."""
        parts = parts_of(parameters)
        if not grads_of(parts):
            self.skip = None
            return torch.zeros(())
        if self._is_by_element():
            return self._one_by_one(parts)
        norm, norms, thresholds = self._decide(parts)
        self.skip = self._action(self._measure, parts, norms, thresholds)
        self._learn(parts, norm.isfinite() if self.skip is None else norm.isfinite() & ~self.skip)
        return norm

    def _is_by_element(self) -> bool:
        """Return whether each element is compared with one number: then tensors can come one by one."""
        threshold = self._threshold.func if isinstance(self._threshold, partial) else self._threshold
        return (
            isinstance(self._measure, PerElement | Spikes) and threshold is fixed and self._action is not skip
        )

    def _one_by_one(self, parts: Sequence[Part]) -> Tensor:
        """Clip element by element with the memory of one tensor."""
        norm = joint_norm(grads_of(parts))
        for part in parts:
            norms = torch.where(norm.isfinite(), self._measure.norms([part]), torch.nan)
            thresholds = self._threshold(norms, partial(_weights, self._measure, [part]))
            self._action(self._measure, [part], norms, thresholds)
            self._learn([part], norm.isfinite())
        self.threshold = thresholds.expand(sum(part.weight.numel() for part in parts))
        return norm

    def _learn(self, parts: Sequence[Part], is_sound: Tensor) -> None:
        """Let a measure that remembers learn from the gradients as they were left."""
        learn = getattr(self._measure, "learn", None)
        if learn is not None:
            learn(parts, is_sound)

    @property
    def factor(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """What tells the one factor without writing, see `Scaling`; None where there are several."""
        is_one = isinstance(self._measure, Whole) and self._action is scale
        return self._factor if is_one else None

    @torch.no_grad()
    def _factor(
        self, parameters: Sequence[Tensor], /, *, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the joint norm and what to multiply by; the norm is remembered, nothing is written."""
        parts = parts_of(parameters)
        if not grads_of(parts):
            return torch.zeros(()), torch.ones(())
        norm, norms, thresholds = self._decide(parts, scale)
        return norm, factor_to(norms, thresholds).to(norm.dtype)

    def _decide(self, parts: list[Part], scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the joint norm, the units' norms (no numbers in a bad step) and their thresholds."""
        norms = self._measure.norms(parts)
        joint = self._measure.joint(parts, norms)
        if can_look(joint) and (joint == 0 or not norms.isfinite().all()):
            wide = [_widened(part) for part in parts]  # float32 may have overflowed, or underflowed
            norms = self._measure.norms(wide).to(norms.dtype)
            joint = self._measure.joint(wide, norms)
        if scale is not None:
            norms, joint = norms / scale.to(norms.device), joint / scale.to(joint.device)
        norms = torch.where(joint.isfinite(), norms, torch.nan)
        weights = partial(_weights, self._measure, parts)
        thresholds = self._threshold(norms, weights)
        self.threshold = thresholds.expand_as(norms)
        is_wide = any(grad.dtype in (torch.float64, torch.complex128) for grad in grads_of(parts))
        return joint if is_wide else joint.float(), norms, thresholds

    def state_dict(self) -> dict[str, Any]:
        """Return what measure and threshold remember; with it a resumed run clips as one never stopped."""
        state: dict[str, Any] = {}
        for part in (self._measure, self._threshold):
            state |= getattr(part, "state_dict", dict)()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for part in (self._measure, self._threshold):
            load = getattr(part, "load_state_dict", None)
            if load is not None and state:
                load(state)

    def __repr__(self) -> str:
        parts = (self._measure, self._threshold, self._action)
        return f"Clip({', '.join(getattr(part, '__name__', repr(part)) for part in parts)})"


class Composed(ABC):
    """A named rule that remembers: settings, and the product they stand for.

    Example:
        >>> from tonsor.clip import AutoClip
        >>> issubclass(AutoClip, Composed)
        True
    """

    _clip: Clip  # what `__post_init__` builds

    @abstractmethod
    def __post_init__(self) -> None:
        """Check the settings and build the product."""

    def __call__(self, parameters: Sequence[Tensor], /) -> Tensor:
        """Bound the gradients in place and return the joint norm before, 0-dim."""
        return self._clip(parameters)

    @property
    def factor(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """What tells the one factor without writing, see `Scaling`; None where there are several."""
        return self._clip.factor

    @property
    def threshold(self) -> Tensor | None:
        """The thresholds of the last step, 0-dim or one for each unit; None before the first."""
        return self._clip.threshold

    @property
    def skip(self) -> Tensor | None:
        """Whether the last step is to be skipped, a 0-dim bool; None where the rule never asks."""
        return self._clip.skip

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule remembers; with it a resumed run clips as one that was not stopped."""
        return self._clip.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._clip.load_state_dict(state)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in signature(type(self)).parameters)
        return f"{type(self).__name__}({settings})"


def _weights(measure: Measure, parts: Sequence[Part]) -> Tensor:
    """Return what the weights measure, unit by unit; a weight without a gradient is not looked at."""
    return measure.norms([part if part.grad is None else _of_weight(part) for part in parts])


def _of_weight(part: Part) -> Part:
    """Return the part with its weight in the place of its gradient."""
    given = part.weight if type(part.given) is Tensor else part.parameter.detach()
    return Part(part.place, part.parameter, given, part.weight, part.weight, None)


def _widened(part: Part) -> Part:
    """Return the part with its gradient in float64."""
    if part.grad is None:
        return part
    return part._replace(grad=part.grad.to(torch.complex128 if part.grad.is_complex() else torch.float64))
