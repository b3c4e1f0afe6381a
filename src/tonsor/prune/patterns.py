"""Patterns: which weights live or die together."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tonsor.prune.protocol import Masks
from tonsor.prune.reduction import Reduction, check_reduction, join


@dataclass(frozen=True, kw_only=True)
class Element:
    """Let every weight live or die by itself: a unit is an element.

    Example:
        >>> import torch
        >>> rule = Element()
        >>> rule.reduce({"w": torch.tensor([[1.0, 2.0]])})
        {'w': tensor([[1., 2.]])}
    """

    def reduce(self, scores: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """Return the scores as they are."""
        return scores

    def expand(self, keep: Mapping[str, Tensor], like: Mapping[str, Tensor], /) -> Masks:
        """Return the choice as it is."""
        return dict(keep)


@dataclass(frozen=True, kw_only=True)
class Channel:
    r"""Let the weights of one channel (row, filter, column or kernel) live or die together.

    A unit is a slice at one place of `dim`; a tensor of fewer than two dimensions has its elements as units.
    Its score is by default the sum :math:`u_i = \sum_{w \in i} s(w)`, so that among tensors that compete a
    channel of more weights starts ahead.

    Args:
        dim: 0 for outputs (rows, filters), 1 for inputs (columns), `(0, 1)` for the spatial kernels of a
            convolution; negative counts from the last.
        reduction: Score of a channel: sum, mean, maximum or 2-norm ("l2") of its elements'.

    Raises:
        ValueError: If a weight of two or more dimensions has no such dimension, or the reduction is not
            known.

    Example:
        >>> import torch
        >>> rows = Channel()
        >>> w = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
        >>> rows.reduce(w)
        {'w': tensor([3., 7.])}
        >>> rows.expand({"w": torch.tensor([False, True])}, w)
        {'w': tensor([[False, False],
                [ True,  True]])}

    References:
        Li et al., 2017, "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710
    """

    dim: int | tuple[int, ...] = 0
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        check_reduction("Channel", self.reduction)

    def reduce(self, scores: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return one score for each channel, shaped like the weight's `dim`; in float32 at least."""
        return {name: self._join(name, score) for name, score in scores.items()}

    def expand(self, keep: Mapping[str, Tensor], like: Mapping[str, Tensor], /) -> Masks:
        """Return masks in which a channel is all true or all false."""
        return {name: self._spread(name, keep[name], like[name]) for name in keep}

    def _join(self, name: str, score: Tensor) -> Tensor:
        """Return one score for each channel."""
        others = self._others(name, score)
        return join(score, others, self.reduction) if others else score

    def _spread(self, name: str, keep: Tensor, like: Tensor) -> Tensor:
        """Return the choice repeated over each channel."""
        for dim in self._others(name, like):
            keep = keep.unsqueeze(dim)
        return keep.expand_as(like).contiguous()

    def _others(self, name: str, tensor: Tensor) -> list[int]:
        """Return the dimensions along which a channel extends, from the first."""
        if tensor.ndim < 2:
            return []
        dims = self.dim if isinstance(self.dim, tuple) else (self.dim,)
        for dim in dims:
            if not -tensor.ndim <= dim < tensor.ndim:
                raise ValueError(
                    f"prune.Channel: weight '{name}' of shape {tuple(tensor.shape)} has no dimension {dim};"
                    " choose another dim or leave the weight out"
                )
        own = {dim % tensor.ndim for dim in dims}
        return [dim for dim in range(tensor.ndim) if dim not in own]
