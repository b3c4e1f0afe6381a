"""Movement: an importance, and its statistic accumulated while a model trains."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tonsor.spelling import unknown

STATISTIC = "weight_gradient"


def movement(weight: Tensor, weight_gradient: Tensor, /) -> Tensor:
    r"""Score a weight by how fast descent moves it away from zero: :math:`s = -\overline{w\,g}`.

    A weight that shrinks scores below zero, however large it is. The statistic is a mean of :math:`w\,g`,
    wherever it comes from: `collect` takes it over batches at one point, the class `Movement` over the steps
    of a training run, which is what the paper does while it fine-tunes.

    Args:
        weight: Shape `(out, in, ...)`; only its place counts.
        weight_gradient: Mean of weight times gradient, shaped like the weight.

    Returns:
        The scores, of either sign, shaped like the weight.

    Example:
        >>> w, g = torch.tensor([3.0, -4.0]), torch.tensor([-2.0, -0.5])
        >>> movement(w, w * g)
        tensor([ 6., -2.])

    References:
        Sanh et al., 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning",
        https://arxiv.org/abs/2005.07683
    """
    return -weight_gradient


class Movement:
    r"""Add up weight times gradient over the steps of a training run: the statistic of `movement`.

    Call `observe` after the backward pass and before the optimizer's step, with unscaled gradients. What
    comes of it has the form of `collect`'s answer, so that `Pruner(..., collect=movement.stats)` prunes
    by what training has done so far. A weight that a mask holds at zero adds nothing: its score stays what
    it was. A product that is not finite (a step the loss scaling will leave out) is not added either.

    Args:
        parameters: Weights by name. One without a gradient adds nothing.

    Example:
        >>> from tonsor.prune import movement
        >>> w = torch.tensor([2.0, 2.0], requires_grad=True)
        >>> moved = Movement({"w": w})
        >>> w.grad = torch.tensor([-3.0, 3.0])      # descent enlarges the first, shrinks the second
        >>> moved.observe()
        >>> movement(w, moved.stats()["w"]["weight_gradient"])
        tensor([ 6., -6.])

    References:
        Sanh et al., 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning",
        https://arxiv.org/abs/2005.07683
    """

    def __init__(self, parameters: Mapping[str, Tensor], /) -> None:
        self.steps = 0
        self._parameters = dict(parameters)
        self._sums = {
            name: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32), requires_grad=False)
            for name, w in parameters.items()
        }

    @torch.no_grad()
    def observe(self) -> None:
        """Add the product of each weight and its gradient as they stand."""
        for name, weight in self._parameters.items():
            if weight.grad is not None:
                gradient = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
                product = weight.to(self._sums[name].dtype) * gradient
                self._sums[name].add_(product.where(product.isfinite(), 0))
        self.steps += 1

    def stats(self) -> dict[str, dict[str, Tensor]]:
        """Return the mean product over the steps, by weight, under `weight_gradient`."""
        if not self.steps:
            raise ValueError("prune.Movement: no step was observed; call observe() after each backward pass")
        return {name: {STATISTIC: total / self.steps} for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return sums and steps; with them a resumed run goes on as the one that was not stopped."""
        return {"sums": dict(self._sums), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that `state_dict` gave; one of other weights is refused, nothing taken."""
        sums = state["sums"]
        for name in sums:
            if name not in self._sums:
                raise ValueError(f"prune.Movement: in the state: {unknown('weight', name, self._sums)}")
        for name, own in self._sums.items():
            if name not in sums or sums[name].shape != own.shape:
                got = tuple(sums[name].shape) if name in sums else "none"
                raise ValueError(
                    f"prune.Movement: the state must hold a sum of '{name}' of shape {tuple(own.shape)};"
                    f" got {got}; load the state of the same model"
                )
        self._sums = {name: sums[name].to(own, copy=True) for name, own in self._sums.items()}
        self.steps = state["steps"]
