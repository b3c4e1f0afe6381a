"""What a rule for one layer is, and what a repair is."""

from typing import Protocol

from torch import Tensor


class LayerRule(Protocol):
    """Prune one weight by what its layer is fed; the rules of `LAYER_RULES` are called like this.

    Example:
        >>> import torch
        >>> from tonsor.prune import sparsegpt
        >>> rule: LayerRule = sparsegpt
        >>> rule(torch.tensor([[1.0, 2.0]]), torch.eye(2), 0.5)
        (tensor([[0., 2.]]), tensor([[False,  True]]))
    """

    def __call__(
        self, weight: Tensor, gram: Tensor, sparsity: float, /, *, mean: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the new weight, and its mask, true where the weight stays."""
        ...


class Repair(Protocol):
    """Refit one weight on its mask, to what the dense layer gave.

    Example:
        >>> import torch
        >>> from tonsor.prune import refit
        >>> rule: Repair = refit
        >>> rule(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]]), torch.eye(2))
        tensor([[1., 0.]])
    """

    def __call__(
        self,
        weight: Tensor,
        mask: Tensor,
        gram: Tensor,
        /,
        *,
        mean: Tensor | None = None,
        cross: Tensor | None = None,
    ) -> Tensor:
        """Return the weight refitted, zero where the mask is false."""
        ...
