"""Soft pruning: weights are pressed towards zero while they go on training, and removed only at the end."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor.masked import clear_state_
from tonsor.prune.carried import carried, fraction_gone, start
from tonsor.prune.from_training import gathered, looks, memory_of, remind
from tonsor.prune.protocol import Masks, Stats, Watch
from tonsor.schedule import Schedule
from tonsor.tensors import apply_masks_


class SoftPruner:
    r"""Choose the weights that are to go, press on them, and remove them when `hold` is called.

    Until then no gradient is masked. Without `penalty` the chosen weights are set to zero whenever they
    are chosen, at every multiple of `every`, and train on from there; the next choice is free, so that a
    weight may come back (soft filter pruning, with the pattern `Channel` and `every` an epoch). With
    `penalty` they get the gradient :math:`\lambda(t)\,w` on top of their own, that of an L2 penalty that
    grows; what is chosen stays chosen, and the first choice is made before the first step (GReg-1).

    `steps` counts the steps, and `asked` is what the schedule gave when weights were last chosen.

    A loop of one's own calls `observe` after backward and `step` after the optimizer's step, as with
    `Pruner`; `tonsor.attach` does both.

    Args:
        parameters: Weights by name; zeros are written into them.
        find: Called as `find(parameters, sparsity, stats=..., within=...)`, as `find_masks`.
        schedule: Gives the sparsity at a step, in [0, 1); constant in both papers.
        every: Steps between two choices, at least 1.
        penalty: Gives the strength at a step. The paper adds 1e-4 every 10 steps up to 1: `stairs` with
            `stop=100_000, count=10_000`. A steeper one disturbs more.
        collect: Gives the statistics, as for `Pruner`.
        within: Masks of an earlier pass; they hold from the first step, and count.

    Raises:
        ValueError: If `every` is less than 1, or a mask does not fit its weight.

    Example:
        >>> from functools import partial
        >>> from tonsor.prune import find_masks
        >>> from tonsor.schedule import constant
        >>> w = torch.tensor([4.0, 1.0, 3.0, 2.0])
        >>> pruner = SoftPruner({"w": w}, find_masks, schedule=partial(constant, final=0.5))
        >>> pruner.step(); w          # zeroed, not held
        tensor([4., 0., 3., 0.])
        >>> _ = w.add_(torch.tensor([-3.5, 2.0, 0.0, 0.1])); pruner.step(); w
        tensor([0., 2., 3., 0.])
        >>> pruner.hold(); pruner.masks
        {'w': tensor([False,  True,  True, False])}

    References:
        He et al., 2018, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks",
        https://arxiv.org/abs/1808.06866
        Wang et al., 2021, "Neural Pruning via Growing Regularization", https://arxiv.org/abs/2012.09243
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        find: Callable[..., Masks],
        /,
        *,
        schedule: Schedule,
        every: int = 1,
        penalty: Schedule | None = None,
        collect: Callable[[], Stats] | Watch | None = None,
        within: Mapping[str, Tensor] | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"prune.SoftPruner: every must be at least 1; got {every}")
        self.steps = 0
        self._parameters = dict(parameters)
        self._find = find
        self._schedule = schedule
        self._every = every
        self._penalty = penalty
        self._collect = collect
        self.asked = 0.0
        self._is_held = False
        self._masks = start("SoftPruner", self._parameters, within)
        self._chosen = dict(self._masks)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Weights by name."""
        return dict(self._parameters)

    @property
    def masks(self) -> Masks:
        """Masks of what is held at zero: those of before, and after `hold` what was chosen too."""
        return dict(self._masks)

    @property
    def chosen(self) -> Masks:
        """Masks of what is to go, false where it is."""
        return dict(self._chosen)

    @property
    def sparsity(self) -> float:
        """Fraction of all elements that is to go; asking waits for the device."""
        return fraction_gone(self._chosen)

    @property
    def looks(self) -> bool:
        """Whether `observe` has anything to do in the step that comes."""
        return not self._is_held and (self._penalty is not None or looks(self._collect, self._is_next_due))

    @torch.no_grad()
    def observe(self) -> None:
        """Add the penalty's gradient to that of the chosen weights, and let a watch look."""
        if looks(self._collect, self._is_next_due) and isinstance(self._collect, Watch):
            self._collect.observe()
        if self._penalty is None or self._is_held:
            return
        if self.steps == 0 and self.asked == 0:
            self._choose()
        strength = self._penalty(self.steps)
        for name, weight in self._parameters.items():
            if weight.grad is not None and strength:
                weight.grad = weight.grad.to_dense()
                weight.grad.add_(weight.masked_fill(self._chosen[name], 0), alpha=strength)

    def step(self, optimizer: Optimizer | None = None, /) -> None:
        """Choose anew if it is time, and without a penalty set what is chosen to zero.

        Args:
            optimizer: Not needed: what is chosen goes on training, with its momentum.
        """
        self.steps += 1
        if not self._is_held and self._is_due(self.steps):
            self._choose()
            if self._penalty is None:
                apply_masks_(self._parameters, self._chosen)
        apply_masks_(self._parameters, self._masks)

    def hold(self, optimizer: Optimizer | None = None, /) -> None:
        """Remove for good what is chosen; without a penalty that is chosen once more, as weights are now.

        Args:
            optimizer: Is made to forget what it knows of them.
        """
        if not self._is_held and self._penalty is None:
            self._choose()
        self._is_held = True
        self._masks = dict(self._chosen)
        apply_masks_(self._parameters, self._masks)
        if optimizer is not None:
            clear_state_(optimizer, self._parameters, self._masks)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, choice and step; with them a resumed run goes on as the one that was not stopped."""
        return {
            "masks": dict(self._masks),
            "chosen": dict(self._chosen),
            "steps": self.steps,
            "asked": self.asked,
            "held": self._is_held,
            "watch": memory_of(self._collect),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that `state_dict` gave; masks that do not fit are refused, nothing taken."""
        masks = carried("SoftPruner", self._parameters, state["masks"])
        self._chosen = carried("SoftPruner", self._parameters, state["chosen"])
        self._masks = masks
        self.steps, self.asked, self._is_held = state["steps"], state["asked"], state["held"]
        remind(self._collect, state["watch"])

    def _is_next_due(self) -> bool:
        """Return whether weights are to be chosen at the end of the step that comes."""
        return self._is_due(self.steps + 1)

    def _is_due(self, step: int) -> bool:
        """Return whether weights are to be chosen at the end of a step."""
        lowest = 0.0 if self._penalty is None else self.asked
        return step % self._every == 0 and self._schedule(step) > lowest

    def _choose(self) -> None:
        """Choose what is to go: freely, or with a penalty within what is chosen already."""
        sparsity = self._schedule(self.steps)
        within = self._masks if self._penalty is None else self._chosen
        stats = gathered(self._collect)
        self._chosen = self._find(self._parameters, sparsity, stats=stats, within=within)
        self.asked = sparsity
