"""The value up to which the lowest of many tensors reach: exact, and on the CPU without joining them."""

from collections.abc import Collection

import torch
from torch import Tensor

CHUNK = 1 << 18  # elements counted at once: their keys stay in the cache
DIGIT = 16  # bits of a key that are counted at once
BINS = 1 << DIGIT


def lowest(parts: Collection[Tensor], sparsity: float, /) -> tuple[Tensor, Tensor]:
    """Return the highest value of the lowest round(sparsity * elements) of all tensors together.

    On the CPU elements are counted by the upper 16 bits of their keys, then, within one bin, by the next 16:
    no copy is made of them, and a collection that computes its tensors as it is gone through never has two
    of them in memory. It is gone through three times for 32 bits and less, five times for 64.

    Args:
        parts: Tensors of any shape, without a not-a-number; compared on the device of the first.
        sparsity: Fraction of the elements that is meant, in [0, 1).

    Returns:
        The value, shape `(1,)`, in the widest type of the tensors, and how many of the elements that equal
        it are meant, shape `()`. Minus infinity where no element is.

    Example:
        >>> lowest([torch.tensor([5.0, 1.0]), torch.tensor([3.0, 3.0])], 0.5)
        (tensor([3.]), tensor(1))
    """
    kinds = [(part.dtype, part.device, part.numel()) for part in parts]
    total = sum(size for _, _, size in kinds)
    count = round(sparsity * total)
    if count == 0:
        return torch.tensor([-torch.inf]), torch.tensor(0)
    if total <= CHUNK or any(device.type != "cpu" for _, device, _ in kinds):
        first = kinds[0][1]
        together = torch.cat([part.reshape(-1).to(first) for part in parts])
        value = kth_of_rows(together.view(1, -1), count).view(1)
        return value, count - (together < value).sum()
    dtype = torch.stack([torch.zeros((), dtype=dtype) for dtype, _, _ in kinds]).dtype
    return _count_down(parts, count, dtype)


def kth_of_rows(rows: Tensor, count: int, /) -> Tensor:
    """Return the k-th lowest value of each row.

    Args:
        rows: Shape `(rows, columns)`.
        count: Rank of the value, from 1 to the number of columns.

    Returns:
        The values, shape `(rows, 1)`.

    Example:
        >>> kth_of_rows(torch.tensor([[5.0, 1.0, 3.0]]), 2)
        tensor([[3.]])
    """
    if torch.are_deterministic_algorithms_enabled():  # where older torch refuses kthvalue on CUDA
        return rows.sort(dim=-1).values.narrow(-1, count - 1, 1)
    return rows.kthvalue(count, dim=-1, keepdim=True).values


def _count_down(parts: Collection[Tensor], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the value of a rank, and the rank among its equals, counting one digit of the keys at a time."""
    wide = torch.promote_types(dtype, torch.float32)
    shifts = range(torch.finfo(wide).bits - DIGIT, -1, -DIGIT)
    key = 0  # the digits found so far, signed by the first
    for shift in shifts:
        counts = torch.zeros(BINS, dtype=torch.int64)
        for part in parts:
            for chunk in torch.split(part.detach().reshape(-1), CHUNK):
                found = _digits(_keys(chunk.to(wide)), shift, None if shift == shifts[0] else key).bincount()
                counts[: len(found)] += found
        digit, count = _bin_of(counts, count)
        key = (key << DIGIT) + digit - (BINS // 2 if shift == shifts[0] else 0)
    return _value(key, wide).to(dtype), torch.tensor(count)


def _digits(keys: Tensor, shift: int, begin: int | None) -> Tensor:
    """Return a digit of the keys that begin so; without a beginning the first digit, made positive."""
    if begin is None:
        return (keys >> shift) + BINS // 2
    inside = (keys >> (shift + DIGIT)) == begin
    chosen = keys.numpy().compress(inside.numpy())  # four times faster than torch's choice where few are
    return (torch.from_numpy(chosen) >> shift) & (BINS - 1)


def _keys(values: Tensor) -> Tensor:
    """Return integers in the order of the floats; both zeros have the key 0."""
    bits = values.view(torch.int32 if values.dtype == torch.float32 else torch.int64)
    if not bits.numel() or bits.min() >= 0:
        return bits
    sign = bits >> (torch.iinfo(bits.dtype).bits - 1)  # -1 or 0; six times faster than a choice by `where`
    return (bits ^ (sign & torch.iinfo(bits.dtype).max)) - sign


def _value(key: int, dtype: torch.dtype) -> Tensor:
    """Return the float of a key, shape `(1,)`."""
    bits = torch.tensor([abs(key)], dtype=torch.int32 if dtype == torch.float32 else torch.int64)
    size = bits.view(dtype)
    return -size if key < 0 else size


def _bin_of(counts: Tensor, count: int) -> tuple[int, int]:
    """Return the bin that holds the element of a rank, and the element's rank in the bin."""
    reached = counts.cumsum(0)
    bin = int((reached < count).sum())
    return bin, count - (int(reached[bin - 1]) if bin else 0)
