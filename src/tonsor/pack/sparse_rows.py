"""A weight as rows of what is not zero, and the product with it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tonsor.pack.sparse_compiled import compiled

PIECE = 1 << 22  # products held at once by the plain way
SIZES = struct.Struct("12q")  # what the kernel is told beside the memory
SHORT = 1 << 16  # features that 16 bits can number


@dataclass(frozen=True, eq=False)
class Rows:
    r"""Hold a weight :math:`(out, in)` by rows: values, their columns, and where each row starts.

    Args:
        values: What is not zero, row by row.
        index: The column of each value: 16 bits where they suffice, 32 where not.
        pointers: Where each row starts, and where the last one ends, 32 bits.
        number: How many rows there are.
        features: Columns of all groups together.
        groups: Runs of rows of equal length; each has columns of its own, one run after the other.

    Example:
        >>> rows_of(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).values
        tensor([2., 3.])
    """

    values: Tensor
    index: Tensor
    pointers: Tensor
    number: int
    features: int
    groups: int = 1

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(t.numel() * t.element_size() for t in (self.values, self.index, self.pointers))

    def columns(self) -> Tensor:
        """Return the column of each value as 32 bits."""
        return self.index.to(torch.int32) & 0xFFFF if self.index.dtype == torch.int16 else self.index

    def places(self) -> Tensor:
        """Return the row of each value."""
        counts = self.pointers.diff().long()
        return torch.repeat_interleave(torch.arange(self.number), counts)

    def dense(self) -> Tensor:
        """Return the weight `(out, in / groups)` with its zeros."""
        width = self.features // self.groups
        weight = self.values.new_zeros(self.number, width)
        weight[self.places(), self.columns().long() % max(1, width)] = self.values
        return weight

    def whole(self) -> Tensor:
        """Return the weight `(out, in)` with its zeros, and with those between the groups."""
        weight = self.values.new_zeros(self.number, self.features)
        weight[self.places(), self.columns().long()] = self.values
        return weight


def rows_of(weight: Tensor, /, *, groups: int = 1) -> Rows:
    """Return a weight by rows.

    Args:
        weight: `(out, in / groups)`; what is zero is left out.
        groups: As a convolution has them.

    Returns:
        The rows; a weight of zeros has none that hold anything.

    Raises:
        ValueError: If there are more than 2³¹ weights that are not zero.

    Example:
        >>> rows = rows_of(torch.tensor([[0.0, 2.0], [3.0, 0.0]]), groups=2)
        >>> rows.index, rows.pointers
        (tensor([1, 2], dtype=torch.int16), tensor([0, 1, 2], dtype=torch.int32))
    """
    weight = weight.detach()
    kept = weight != 0
    counts = kept.sum(1)
    if int(counts.sum()) >= 2**31:
        raise ValueError("pack.rows_of: the weight has 2³¹ elements that are not zero, or more; split it")
    row, column = kept.nonzero(as_tuple=True)
    features = weight.shape[1] * groups
    column = column + row // max(1, len(weight) // groups) * weight.shape[1]
    narrow = np.uint16 if features <= SHORT else np.int32
    index = torch.from_numpy(
        column.numpy().astype(narrow).view(np.int16 if narrow == np.uint16 else np.int32)
    )
    pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return Rows(weight[kept].contiguous(), index, pointers, len(weight), features, groups)


def plain_product(rows: Rows, x: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """Return the product in torch's own operations: what the kernel has to give, and what stands in for it.

    Args:
        rows: The weight.
        x: `(..., features, columns)`.
        bias: One number a row.

    Returns:
        `(..., rows, columns)`.

    Example:
        >>> plain_product(rows_of(torch.tensor([[0.0, 2.0], [3.0, 0.0]])), torch.tensor([[1.0], [10.0]]))
        tensor([[20.],
                [ 3.]])
    """
    out = x.new_zeros(*x.shape[:-2], rows.number, x.shape[-1])
    if bias is not None:
        out += bias[:, None]
    column, place = rows.columns(), rows.places()
    step = max(1, PIECE // max(1, out[..., :1, :].numel()))
    for start in range(0, len(column), step):
        piece = slice(start, start + step)
        out.index_add_(-2, place[piece], x.index_select(-2, column[piece]) * rows.values[piece, None])
    return out


def product_(
    out: Tensor, rows: Rows, x: Tensor, bias: Tensor | None = None, starts: Tensor | None = None, /
) -> Tensor:
    """Write the product into memory that is there, by the compiled kernel.

    Args:
        out: `(rows, columns)` or `(samples, rows, columns)`, with rows or columns side by side in memory.
        rows: The weight, float32.
        x: `(features, columns)` or `(samples, features, columns)`, likewise; with `starts` the features may
            overlap.
        bias: One number a row.
        starts: Where each feature starts in a sample, in elements, 32 bits, if not at even steps.

    Returns:
        The same memory.

    Example:
        >>> rows = rows_of(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
        >>> product_(torch.empty(2, 1), rows, torch.tensor([[1.0], [10.0]]))
        tensor([[20.],
                [ 3.]])
    """
    call = compiled().call
    if call is None:
        seen = x if starts is None else _spread(x, starts, out.shape[-1])
        return out.copy_(plain_product(rows, seen, bias))
    columns = out.shape[-1]
    samples = 1 if out.ndim == 2 else len(out)
    _multiply(
        call, rows, (x, bias, starts, out), (columns, samples, *_steps(x, columns), *_steps(out, columns))
    )
    return out


def product_of_columns(
    rows: Rows, x: Tensor, bias: Tensor | None = None, /, *, turned: bool = False
) -> Tensor:
    """Return the product of columns that lie one after the other, or with features one after the other.

    What `product_` does, with as little around the kernel as can be: a small layer takes microseconds.

    Args:
        rows: The weight, float32.
        x: `(columns, features)`.
        bias: One number a row.
        turned: Whether the rows of the result, not its columns, shall lie side by side in memory.

    Returns:
        `(columns, rows)`.

    Example:
        >>> product_of_columns(rows_of(torch.tensor([[0.0, 2.0], [3.0, 0.0]])), torch.tensor([[1.0, 10.0]]))
        tensor([[20.,  3.]])
    """
    call = compiled().call
    columns, number = x.shape[0], rows.number
    if call is None:
        out = plain_product(rows, x.t(), bias).t()
        return out if turned else out.contiguous()
    if x.stride(1) != 1 and x.stride(0) != 1:
        x = x.contiguous()
    step, feature = x.stride()
    out = x.new_empty((number, columns) if turned else (columns, number))
    laid = (columns, 1) if turned else (1, 1 if number == 1 else number)
    close = 1 if columns == 1 and feature != 1 else step
    _multiply(call, rows, (x, bias, None, out), (columns, 1, feature, close, 0, *laid, 0))
    return out.t() if turned else out


def _multiply(
    call: Callable[..., Any],
    rows: Rows,
    memory: tuple[Tensor, Tensor | None, Tensor | None, Tensor],
    sizes: tuple[int, ...],
) -> None:
    """Call the kernel."""
    x, bias, starts, out = memory
    bits = 16 if rows.index.dtype is torch.int16 else 32
    call(
        rows.values.data_ptr(),
        rows.index.data_ptr(),
        rows.pointers.data_ptr(),
        None if bias is None else bias.data_ptr(),
        x.data_ptr(),
        None if starts is None else starts.data_ptr(),
        out.data_ptr(),
        SIZES.pack(rows.number, rows.features, *sizes[:2], torch.get_num_threads(), bits, *sizes[2:]),
    )


def _steps(tensor: Tensor, columns: int) -> tuple[int, int, int]:
    """Return how many elements lie between features, columns and samples; one column lies close."""
    *sample, feature, column = tensor.stride()
    return feature, 1 if columns == 1 and feature != 1 else column, sample[0] if sample else 0


def _spread(x: Tensor, starts: Tensor, columns: int) -> Tensor:
    """Return features that overlap in memory as a tensor of their own."""
    places = starts.long()[:, None] + torch.arange(columns)
    return x.flatten(1)[:, places]
