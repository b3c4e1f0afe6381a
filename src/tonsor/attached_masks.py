"""The masks of an attached step: a table of them that stands still, or an object that moves them."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor.masked import clear_state_, mask_gradients_
from tonsor.tensors import apply_masks_, gradients, joint_norm


@runtime_checkable
class Masking(Protocol):
    """Move masks while a model trains.

    More is used where it is there: `parameters`, the weights by name; `observe()`, called after each
    backward; `looks`, whether that has anything to do in this step; `state_dict()` and `load_state_dict()`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from tonsor import prune, schedule
        >>> w = torch.ones(2)
        >>> half = partial(schedule.constant, final=0.5)
        >>> isinstance(prune.Pruner({"w": w}, prune.find_masks, schedule=half), Masking)
        True
    """

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Masks of what is held at zero, the same tensors until they change."""
        ...

    def step(self) -> Any:
        """Move the masks if it is time, and write their zeros."""
        ...


class Still:
    """Hold masks that do not change."""

    def __init__(
        self, optimizer: Optimizer, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> None:
        self._weights, self._masks = dict(weights), dict(masks)
        self.waits = self.looks = False
        clear_state_(optimizer, self._weights, self._masks)

    def before(self, *, is_zeroing: bool) -> None:
        """Zero the gradients of removed weights."""
        mask_gradients_(self._weights, self._masks)

    def after(self) -> None:
        """Zero the removed weights."""
        apply_masks_(self._weights, self._masks)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the masks stand still."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class Moving:
    """Drive an object that moves masks, and let the optimizer forget what they remove."""

    def __init__(self, optimizer: Optimizer, moving: Masking, weights: Mapping[str, Tensor]) -> None:
        self._optimizer, self._moving, self._weights = optimizer, moving, dict(weights)
        self.waits = True  # it must know whether a step was taken
        clear_state_(optimizer, self._weights, moving.masks)

    @property
    def looks(self) -> bool:
        """Whether it has something to look for in the gradients of this step."""
        return hasattr(self._moving, "observe") and bool(getattr(self._moving, "looks", True))

    @torch.no_grad()
    def before(self, *, is_zeroing: bool) -> None:
        """Let it look at the gradients, unless one is not finite, then zero those of removed weights."""
        if self.looks:
            held = gradients(self._weights.values())
            is_sound = not held or bool(joint_norm(held).isfinite())
            if is_zeroing and not is_sound:
                for grad in held:
                    grad.nan_to_num_(0, 0, 0)
            if is_sound or is_zeroing:
                self._moving.observe()  # type: ignore[attr-defined]  # it is there, or nothing looks
        mask_gradients_(self._weights, self._moving.masks)

    def after(self) -> None:
        """Let it step; the optimizer forgets what went with it."""
        before = self._moving.masks
        self._moving.step()
        moved = {name: mask for name, mask in self._moving.masks.items() if mask is not before.get(name)}
        clear_state_(self._optimizer, self._weights, moved)

    def state_dict(self) -> dict[str, Any]:
        """Return its memory, if it has one."""
        state: dict[str, Any] = getattr(self._moving, "state_dict", dict)()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        getattr(self._moving, "load_state_dict", lambda _: None)(state)
