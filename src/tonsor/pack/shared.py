"""A weight that takes few values: a code for each element, and the table of values that codes stand for."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST = 2.0**-10  # what the largest value of a table must be, that half precision suits it
LEVELS = 256  # codes a byte can hold
Sharing = Callable[..., "Shared"]


@dataclass(frozen=True)
class Shared:
    r"""Hold a weight whose elements share values: :math:`w_i = T_{g(i), c_i}`, and code 0 is exactly zero.

    Each group of output channels has a row of the table. What is learned is the table itself, or one
    scale a row, whose whole multiples the values are.

    Args:
        rule: "kmeans", "uniform" or "palette": what the table was found by.
        bits: Of a code, before any coding.
        codes: uint8, shaped like the weight.
        learned: `(groups, levels)`, the values of codes 1, 2, ...; of "uniform" `(groups, 1)`, the scales.
        dtype: Of the weight.

    Example:
        >>> codes = torch.tensor([[1, 0], [2, 1]], dtype=torch.uint8)
        >>> Shared("kmeans", 2, codes, torch.tensor([[0.5, -1.0]]), torch.float32).values()
        tensor([[ 0.5000,  0.0000],
                [-1.0000,  0.5000]])
    """

    rule: str
    bits: int
    codes: Tensor
    learned: Tensor
    dtype: torch.dtype

    @property
    def groups(self) -> int:
        """How many rows the table has."""
        return len(self.learned)

    def table(self) -> Tensor:
        """Return the value of every code, `(groups, levels + 1)`; it is differentiable in what is learned."""
        zero = self.learned.new_zeros(self.groups, 1)
        if self.rule != "uniform":
            return torch.cat([zero, self.learned], 1)
        steps = torch.arange(1, 2 ** (self.bits - 1), device=self.learned.device)
        both = torch.stack([steps, -steps], 1).flatten().to(self.learned.dtype)
        return torch.cat([zero, self.learned * both], 1)

    def values(self) -> Tensor:
        """Return the weight."""
        table = self.table().detach().to(self.dtype)
        return torch.index_select(table.flatten(), 0, self.places()).view(self.codes.shape)

    def places(self) -> Tensor:
        """Return the place of each element in the flat table, int32 or int64, 1-D."""
        if self.groups == 1:
            return self.codes.reshape(-1).int()
        rows = runs_of(self.codes, self.groups)
        width = 1 + (self.learned.shape[1] if self.rule != "uniform" else 2 * (2 ** (self.bits - 1) - 1))
        return (self.codes.reshape(len(rows), -1).long() + (rows * width)[:, None]).flatten()

    def with_learned(self, learned: Tensor, /) -> "Shared":
        """Return the same codes with another table."""
        return replace(self, learned=learned)


def runs_of(weight: Tensor, groups: int | None, /) -> Tensor:
    """Return for each output channel the run it is in, so many runs of like length.

    Args:
        weight: Any shape; one of a single dimension is one channel.
        groups: How many, at least 1; where there are fewer channels, or nothing is given, one each.

    Returns:
        int64, shape `(channels,)`.

    Raises:
        ValueError: If there are to be less than 1.

    Example:
        >>> runs_of(torch.zeros(3, 4), 2), runs_of(torch.zeros(2, 4), 16), runs_of(torch.zeros(9), 2)
        (tensor([0, 0, 1]), tensor([0, 1]), tensor([0]))
    """
    channels = weight.shape[0] if weight.ndim > 1 and weight.numel() else 1
    if groups is not None and groups < 1:
        raise ValueError(f"pack: groups must be at least 1; got {groups}")
    number = min(channels, groups or channels)
    return torch.arange(channels, device=weight.device) * number // channels


def group_rows(weight: Tensor, groups: int, /) -> list[Tensor]:
    """Return the output channels in runs, each flat; one run of everything for what has none.

    Args:
        weight: Any shape.
        groups: As `runs_of` takes them.

    Returns:
        Views or copies, 1-D.

    Raises:
        ValueError: If there are to be less than 1.

    Example:
        >>> [len(run) for run in group_rows(torch.zeros(3, 4), 2)]
        [8, 4]
    """
    rows = runs_of(weight, groups)
    if len(rows) == 1 or not rows[-1]:
        return [weight.reshape(-1)]
    return [run.reshape(-1) for run in torch.split(weight, torch.bincount(rows).tolist())]


def to_half(learned: Tensor, /) -> Tensor:
    """Round to half precision where the largest lies well inside its range; else nothing is rounded.

    A table of two-byte values is half as long in a file; the error, 0.05 % of a value or 0.003 % of the
    largest, is far below that of sharing.

    Args:
        learned: Any float tensor.

    Returns:
        Same shape and type.

    Example:
        >>> to_half(torch.tensor([1.0001, 0.0])), to_half(torch.tensor([1e9]))
        (tensor([1., 0.]), tensor([1.0000e+09]))
    """
    largest = float(learned.abs().max()) if learned.numel() else 0.0
    fits = LEAST <= largest <= torch.finfo(torch.float16).max
    return learned.half().to(learned.dtype) if fits else learned
