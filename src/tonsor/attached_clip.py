"""The clipping half of an attached step: measure, decide, record, and scale or leave out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor.attached_loan import Loan
from tonsor.attached_signs import Signs
from tonsor.attached_where import (
    bound_of,
    diagnosis,
    fixed_bound_of,
    gradients_by_name,
    parameters_of,
)
from tonsor.clip import History
from tonsor.clip.protocol import factor_of
from tonsor.tensors import can_look, gradients, joint_norm, scale_

NonFinite = Literal["raise", "skip", "zero"]
Clip = Callable[[Sequence[Tensor]], Tensor]


class Clipping:
    """Clip the gradients of an optimizer when called, and record what was done."""

    def __init__(
        self,
        optimizer: Optimizer,
        clip: Clip | None,
        named: Mapping[str, Tensor],
        on_nonfinite: NonFinite,
        history: History,
    ) -> None:
        self.clip, self.history = clip, history
        self.norm: Tensor | None = None
        self.skipped: Tensor | int = 0
        self._optimizer, self._named = optimizer, named
        self._on_nonfinite = on_nonfinite
        self._factor, self._fixed = factor_of(clip), fixed_bound_of(clip)
        self._loan, self._signs = Loan(optimizer), Signs()
        self._set_aside: list[tuple[Tensor, Tensor]] = []
        self._is_left_out = False
        self._signs.look_at_first(optimizer, clips=clip is not None)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Bound the gradients of this step, and act on a norm that is not finite."""
        if self.clip is None:
            return
        parameters = parameters_of(self._optimizer)
        is_folded = self._factor is not None and self._loan.is_possible(parameters)
        if not is_folded:
            self._loan.unscale_()
        self.history.look(self._by_name, scale=self._loan.scale)
        norm, factor, bad = self._measure(parameters)
        self.norm = norm
        skip = self._to_skip(bad)
        self._record(step, (norm, factor), (bad, skip))
        if self._on_nonfinite == "raise" and not self._loan.is_scaled_by_another and bad:
            self.history.flush()
            raise FloatingPointError(diagnosis(norm, parameters, self._named))
        if skip is not None:
            self._leave_out(skip, parameters)
        if factor is None or self._is_left_out:
            return
        if is_folded:
            self._loan.multiply(factor)
        elif not (can_look(factor) and factor == 1):  # else not even asked for
            scale_(gradients(parameters), factor)

    @property
    def is_zeroing(self) -> bool:
        """Whether elements that are not finite are set to zero before the step."""
        is_driven = self._loan.is_scaled_by_another
        return self.clip is not None and self._on_nonfinite == "zero" and not is_driven

    def unscale_(self) -> None:
        """Divide the gradients by the loss scale that a fused optimizer was left to divide by itself."""
        self._loan.unscale_()

    def is_left_out(self) -> bool:
        """Return whether the step that has just ended was left out; the device is waited for."""
        found = getattr(self._optimizer, "found_inf", None)
        return self._is_left_out or (found is not None and bool(found))

    def end(self) -> bool:
        """Give back what was borrowed or hidden for a step; return whether it was left out, if known."""
        was_left_out, self._is_left_out = self._is_left_out, False
        self._loan.give_back()
        for parameter, grad in self._set_aside:
            parameter.grad = grad
        self._set_aside.clear()
        return was_left_out

    def _measure(self, parameters: list[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return norm, factor and whether an element was bad; if wished, bad elements are zeroed first."""
        held = next((p.grad for p in parameters if p.grad is not None), None)
        if held is None:
            self._signs.tell_of_no_gradients()
        if self.is_zeroing and held is not None and held.device.type != "cpu":
            bad = ~joint_norm(gradients(parameters)).isfinite()
            return *self._zeroed(parameters), bad
        norm, factor = self._apply(parameters)
        bad = ~norm.isfinite()
        if self.is_zeroing and bad:
            norm, factor = self._zeroed(parameters)
        return norm, factor, bad

    def _zeroed(self, parameters: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Set the bad elements to zero, then ask the rule."""
        for grad in gradients(parameters):
            grad.nan_to_num_(0, 0, 0)
        return self._apply(parameters)

    def _apply(self, parameters: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the norm and the factor to multiply by; None where the rule wrote by itself."""
        if self._factor is not None:
            return self._factor(parameters, scale=self._loan.scale)
        return self.clip(parameters), None  # type: ignore[misc]

    def _to_skip(self, bad: Tensor) -> Tensor | None:
        """Return whether the step shall be left out, as a tensor; None where nobody asks for that."""
        skip: Tensor | None = getattr(self.clip, "skip", None)
        if self._on_nonfinite != "skip" or self._loan.is_scaled_by_another:
            return skip
        return bad if skip is None else bad | skip

    def _leave_out(self, skip: Tensor, parameters: list[Tensor]) -> None:
        """Leave out the step where `skip` is true, by the kernel's flag or by hiding the gradients."""
        can_wait = skip.device.type == "cpu"
        is_fused = self._loan.is_possible(parameters)
        if is_fused and not can_wait:
            self._loan.leave_out(skip)
            self.skipped = self.skipped + skip.long()
            return
        if not skip:
            return
        self._is_left_out = True
        self.skipped = self.skipped + 1
        if is_fused:
            self._loan.leave_out(skip)
            return
        for parameter in parameters:  # an optimizer passes over what has no gradient
            if parameter.grad is not None:
                self._set_aside.append((parameter, parameter.grad))
                parameter.grad = None

    def _record(
        self, step: int, told: tuple[Tensor, Tensor | None], flags: tuple[Tensor, Tensor | None]
    ) -> None:
        """Add the row of this step to the history and look for signs that something is wrong."""
        norm, factor = told
        bad, skip = flags
        after = None if factor is None else norm * factor
        if factor is None and self.history.tensors:
            after = joint_norm(gradients(parameters_of(self._optimizer)))
        self.history.add(
            norm,
            step=step,
            after=after,
            threshold=bound_of(self.clip, self._fixed, norm),
            flags=(bad, torch.zeros_like(bad) if skip is None else skip),
            named=self._by_name,
        )
        self._signs.look(self.history, is_free=norm.device.type == "cpu")

    def _by_name(self) -> dict[str, Tensor]:
        """Return the gradients by name."""
        return gradients_by_name(self._optimizer, self._named)
