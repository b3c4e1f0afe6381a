"""Statistics that come from the training itself: its own gradients, step by step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tonsor.prune.protocol import Stats


class DenseGradient:
    """Give the gradient of the step at whose end masks are found, of removed weights too.

    It must look before the gradients of removed weights are zeroed; `Pruner.observe` calls it. Several
    backward passes of one step (accumulation) count together. A weight without a gradient has 0.

    Args:
        parameters: Weights by name.

    Example:
        >>> w = torch.ones(2, requires_grad=True); (3 * w).sum().backward()
        >>> watch = DenseGradient({"w": w})
        >>> watch.observe()
        >>> w.grad = None      # what happens to it later does not matter
        >>> watch.stats()
        {'w': {'gradient': tensor([3., 3.])}}
    """

    only_when_due = True

    def __init__(self, parameters: Mapping[str, Tensor], /) -> None:
        self._parameters = dict(parameters)
        self._seen: dict[str, dict[str, Tensor]] = {}

    def observe(self) -> None:
        """Keep the gradients as they are now."""
        self._seen = {name: {"gradient": _gradient(w)} for name, w in self._parameters.items()}

    def stats(self) -> Stats:
        """Return the gradients by weight, and keep them no longer."""
        if not self._seen and self._parameters:
            raise ValueError(
                "prune.DenseGradient: no gradient was seen in this step; call `observe` of the pruner after "
                "backward, before the gradients are masked"
            )
        seen, self._seen = self._seen, {}
        return seen


def _gradient(weight: Tensor) -> Tensor:
    """Return a copy of the gradient of a weight, dense and in its shape."""
    if weight.grad is None:
        return torch.zeros_like(weight)
    return weight.grad.detach().to_dense().clone()
