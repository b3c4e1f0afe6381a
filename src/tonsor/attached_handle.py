"""The handle of the rules that were put on an optimizer, and its two hooks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor.attached_clip import Clipping
from tonsor.attached_masks import Moving, Still
from tonsor.attached_where import parameters_of
from tonsor.clip import History

Constrain = Callable[[Sequence[Tensor]], None]


class Attached:
    """Hold the rules that were put on an optimizer; made by `attach`.

    `norm` is the joint gradient norm before the last clipping, `history` a `clip.History` of the last
    steps, `skipped` counts the steps that were left out.

    Example:
        >>> import tonsor
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> sgd = torch.optim.SGD([w], lr=1.0)
        >>> attached = tonsor.attach(sgd, constrain=tonsor.constrain.value)
        >>> w.grad = torch.zeros(1); sgd.step(); w.data
        tensor([0.0100])
        >>> attached.remove()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clipping: Clipping,
        constrain: Constrain | None,
        masking: Still | Moving,
    ) -> None:
        self._clipping, self._constrain, self._masking = clipping, constrain, masking
        self._steps = 0
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    @property
    def norm(self) -> Tensor | None:
        """The joint gradient norm before the last clipping, 0-dim; None before the first."""
        return self._clipping.norm

    @property
    def history(self) -> History:
        """What was measured and done in the last steps."""
        return self._clipping.history

    @property
    def skipped(self) -> int:
        """How many steps were left out; reading it waits for an accelerator."""
        return int(self._clipping.skipped)

    def remove(self) -> None:
        """Take the rules off the optimizer again, and write the rest of the history to its file."""
        for hook in self._hooks:
            hook.remove()
        self._clipping.end()
        self.history.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved to go on as if never stopped: the rules' memory, counts and history."""
        return {
            "steps": self._steps,
            "skipped": self.skipped,
            "clip": getattr(self._clipping.clip, "state_dict", dict)(),
            "constrain": getattr(self._constrain, "state_dict", dict)(),
            "masks": self._masking.state_dict(),
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._steps, self._clipping.skipped = state["steps"], state["skipped"]
        for rule, kept in ((self._clipping.clip, state["clip"]), (self._constrain, state["constrain"])):
            load = getattr(rule, "load_state_dict", None)
            if load is not None:
                load(kept)
        self._masking.load_state_dict(state["masks"])
        self.history.load_state_dict(state["history"])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> Any:
        """Clip now, or after the closure ran where the step brings one."""
        self._clipping.end()  # of a step that was broken off
        self._steps += 1
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
            self._bound()
            return None

        def bounded() -> Any:
            self._clipping.end()
            loss = closure()
            self._bound()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": bounded}
        return (args[0], bounded, *args[2:]), kwargs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        """Mask, then constrain: constraints keep zeros, masks do not keep norms."""
        is_left_out = self._masking.waits and self._clipping.is_left_out()
        if self._clipping.end() or is_left_out:
            return
        self._masking.after()
        if self._constrain is not None:
            self._constrain(parameters_of(optimizer))

    def _bound(self) -> None:
        """Zero the gradients of masked weights, then clip."""
        if self._masking.looks:
            self._clipping.unscale_()
        self._masking.before(is_zeroing=self._clipping.is_zeroing)
        self._clipping(self._steps)
