"""Prune while training: the masks follow a schedule and are applied after every step."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from tonsor.masked import clear_state_
from tonsor.prune.carried import carried, fraction_gone, start
from tonsor.prune.from_training import gathered, looks, memory_of, remind
from tonsor.prune.protocol import Masks, Stats, Watch
from tonsor.schedule import Schedule
from tonsor.tensors import apply_masks_


class Pruner:
    """Hold the masks of a training run, find new ones as a schedule says, and apply them.

    Steps are counted from 1: the first call of `step` is step 1. Whenever the step is a multiple of
    `every` and the schedule stands higher than at the last finding, new masks are found within the old;
    nothing ever comes back. The schedule's end is thus reached at the first multiple of `every` that does
    not lie before it. With `regrow` masks move instead: at every multiple of `every` at which the schedule
    is above 0, the rule drops that fraction and grows as much. On several ranks `find` must get the same
    on each: let `collect` average there.

    `steps` counts the steps, and `asked` is what the schedule gave when masks were last found.

    A loop of one's own reads: backward, `observe`, `mask_gradients_`, clip, the optimizer's step, `step`.
    `tonsor.attach(optimizer, masks=pruner)` does all of it by the optimizer's hooks.

    Args:
        parameters: Weights by name; zeros are written into them.
        find: Called as `find(parameters, sparsity, stats=..., within=...)`: `find_masks` with its parts
            bound by `functools.partial`. With `regrow` it is `rigl` or the like, and gets `step=...` too.
        schedule: Gives the sparsity at a step, in [0, 1); with `regrow` the fraction that moves.
        every: Steps between two findings, at least 1; more gives the weights longer to recover.
        collect: Gives the statistics: a function, called only when masks are about to be found, or a
            `Watch`, which also looks at the gradients whenever `observe` is called.
        within: Masks to start from, of an earlier pass; what they removed stays removed and counts. Those of
            other weights are left alone. With `regrow` they say how sparse each weight is and stays.
        regrow: Whether `find` drops and regrows.

    Raises:
        ValueError: If `every` is less than 1, a mask does not fit its weight, or `regrow` has no masks.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from tonsor.prune import find_masks
        >>> from tonsor.schedule import linear
        >>> w = torch.tensor([4.0, 1.0, 3.0, 2.0])
        >>> pruner = Pruner({"w": w}, find_masks, schedule=partial(linear, final=0.5, stop=2))
        >>> for _ in range(2):
        ...     pruner.step()       # after optimizer.step()
        ...     w
        tensor([4., 0., 3., 2.])
        tensor([4., 0., 3., 0.])

    References:
        Zhu and Gupta, 2017, "To prune, or not to prune", https://arxiv.org/abs/1710.01878
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        find: Callable[..., Masks],
        /,
        *,
        schedule: Schedule,
        every: int = 1,
        collect: Callable[[], Stats] | Watch | None = None,
        within: Mapping[str, Tensor] | None = None,
        regrow: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"prune.Pruner: every must be at least 1; got {every}")
        if regrow and not within:
            raise ValueError(
                "prune.Pruner: regrow moves masks that there are; give within=find_masks(parameters, ...)"
            )
        self.steps = 0
        self._parameters = dict(parameters)
        self._find = find
        self._schedule = schedule
        self._every = every
        self._collect = collect
        self._regrow = regrow
        self.asked = 0.0
        self._masks = start("Pruner", self._parameters, within)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Weights by name."""
        return dict(self._parameters)

    @property
    def masks(self) -> Masks:
        """Masks by name, true where the weight stays; all true at first."""
        return dict(self._masks)

    @property
    def sparsity(self) -> float:
        """Fraction of all elements that is removed now; asking waits for the device."""
        return fraction_gone(self._masks)

    @property
    def looks(self) -> bool:
        """Whether `observe` has anything to do in the step that comes."""
        return looks(self._collect, lambda: self._is_due(self.steps + 1))

    def observe(self) -> None:
        """Let the watch look at the gradients: after backward, before masks and clipping change them."""
        if isinstance(self._collect, Watch) and self.looks:
            self._collect.observe()

    def step(self, optimizer: Optimizer | None = None, /) -> None:
        """Find new masks if they are due, and set what they remove to zero.

        Args:
            optimizer: Is made to forget what it knows of weights that are removed or come back, whenever
                the masks move (`clear_state_`).
        """
        step = self.steps + 1
        if self._is_due(step):
            self._move(step, optimizer)
        self.steps = step
        apply_masks_(self._parameters, self._masks)

    def state_dict(self) -> dict[str, Any]:
        """Return masks and step; with them a resumed run prunes as the one that was not stopped."""
        return {
            "masks": dict(self._masks),
            "steps": self.steps,
            "asked": self.asked,
            "watch": memory_of(self._collect),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that `state_dict` gave; masks that do not fit are refused, nothing taken."""
        self._masks = carried("Pruner", self._parameters, state["masks"])
        self.steps = state["steps"]
        self.asked = state["asked"]
        remind(self._collect, state["watch"])

    def _is_due(self, step: int) -> bool:
        """Return whether masks are to be found at the end of a step."""
        return step % self._every == 0 and self._schedule(step) > (0.0 if self._regrow else self.asked)

    def _move(self, step: int, optimizer: Optimizer | None) -> None:
        """Find new masks; the removed weights are brought to rest first, so that none comes back moving."""
        apply_masks_(self._parameters, self._masks)
        if optimizer is not None:
            clear_state_(optimizer, self._parameters, self._masks)
        amount = self._schedule(step)
        at = {"step": step} if self._regrow else {}
        stats = gathered(self._collect)
        self._masks = self._find(self._parameters, amount, stats=stats, within=self._masks, **at)
        self.asked = amount
        if optimizer is not None:
            clear_state_(optimizer, self._parameters, self._masks)
