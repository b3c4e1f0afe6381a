"""Patterns: which weights live or die together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tonsor.prune.protocol import Masks


@dataclass(frozen=True, kw_only=True)
class Element:
    """Let every weight live or die by itself: a unit is an element.

    Example:
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
    r"""Let the weights of one channel live or die together: :math:`u_i = \sum_{w \in i} s(w)`.

    A unit is a slice along `dim`; a tensor of fewer than two dimensions has its elements as units. The
    scores are summed, so among tensors that compete a channel of more weights starts ahead.

    Args:
        dim: 0 for outputs (rows, filters), 1 for inputs; negative counts from the last.

    Raises:
        ValueError: If a weight of two or more dimensions has no such dimension.

    Example:
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

    dim: int = 0

    def reduce(self, scores: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return the sum over each channel, shape `(channels,)`; half precision is summed to float32."""
        return {name: self._sum(name, score) for name, score in scores.items()}

    def expand(self, keep: Mapping[str, Tensor], like: Mapping[str, Tensor], /) -> Masks:
        """Return masks in which a channel is all true or all false."""
        return {name: self._spread(name, keep[name], like[name]) for name in keep}

    def _sum(self, name: str, score: Tensor) -> Tensor:
        """Return one sum for each channel."""
        if score.ndim < 2:
            return score
        others = [dim for dim in range(score.ndim) if dim != self._index(name, score)]
        return score.sum(others, dtype=torch.promote_types(score.dtype, torch.float32))

    def _spread(self, name: str, keep: Tensor, like: Tensor) -> Tensor:
        """Return the choice repeated over each channel."""
        if like.ndim < 2:
            return keep
        shape = [1] * like.ndim
        shape[self._index(name, like)] = -1
        return keep.view(shape).expand_as(like).contiguous()

    def _index(self, name: str, tensor: Tensor) -> int:
        """Return the dimension counted from the first."""
        if not -tensor.ndim <= self.dim < tensor.ndim:
            raise ValueError(
                f"prune.Channel: weight '{name}' of shape {tuple(tensor.shape)} has no dimension {self.dim};"
                " choose another dim or leave the weight out"
            )
        return self.dim % tensor.ndim
