"""How the scores of the elements of a unit become one score."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from tonsor.spelling import unknown

Reduction: TypeAlias = Literal["sum", "mean", "max", "l2"]


def join(scores: Tensor, dims: Sequence[int], reduction: Reduction, /) -> Tensor:
    """Join the scores along some dimensions, in float32 at least.

    Args:
        scores: Scores of elements, of any shape.
        dims: Dimensions that vanish, at least one.
        reduction: The sum, mean or maximum of the scores, or their 2-norm, which forgets signs.

    Example:
        >>> [join(torch.tensor([[3.0, 4.0]]), [1], how).item() for how in ("sum", "mean", "max", "l2")]
        [7.0, 3.5, 4.0, 5.0]
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if reduction == "sum" or not scores.numel():
        return wide.sum(list(dims))
    if reduction == "mean":
        return wide.mean(list(dims))
    if reduction == "max":
        return wide.amax(list(dims))
    norms: Tensor = torch.linalg.vector_norm(wide, dim=list(dims))
    return norms


def check_reduction(pattern: str, reduction: str, /) -> None:
    """Refuse a reduction that is not known.

    Args:
        pattern: Name of the pattern that was asked.
        reduction: What was asked for.

    Raises:
        ValueError: With the nearest spelling.

    Example:
        >>> check_reduction("Channel", "sums")
        Traceback (most recent call last):
        ValueError: prune.Channel: unknown reduction 'sums'; did you mean 'sum'? Known: l2, max, mean, sum
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"prune.{pattern}: {unknown('reduction', reduction, get_args(Reduction))}")
