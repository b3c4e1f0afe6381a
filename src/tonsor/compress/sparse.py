"""A few elements of some tensors, and the bytes they take."""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from tonsor.compress.levels import from_levels, level_bytes, scale_dtype, to_levels
from tonsor.compress.rice import high_bits, rice_decode, rice_encode, rice_low_bits


@final
class Sparse(NamedTuple):
    """Some elements of T tensors that lie end to end: the rest is zero.

    Example:
        >>> two = join([sparse(torch.tensor([5.0]), torch.tensor([1]), 4)] * 2)
        >>> two.places, two.numels, two.counts
        (tensor([1, 5]), (4, 4), (1, 1))
    """

    values: Tensor  # floating-point numbers, shape (k,)
    places: Tensor  # where they stand in all tensors end to end: ascending, int64, shape (k,)
    numels: tuple[int, ...]  # elements of each tensor
    counts: tuple[int, ...]  # how many of the values are each tensor's


def sparse(values: Tensor, places: Tensor, numel: int, /) -> Sparse:
    """Return some elements of one tensor.

    Args:
        values: Floating-point numbers, shape `(k,)`.
        places: Where they stand in the flat tensor: ascending, int64, shape `(k,)`.
        numel: Elements of the tensor.

    Returns:
        The elements.

    Example:
        >>> sparse(torch.tensor([5.0, -2.0]), torch.tensor([1, 6]), 8).counts
        (2,)
    """
    return Sparse(values, places, (numel,), (values.numel(),))


def join(parts: Sequence[Sparse], /) -> Sparse:
    """Return parts end to end as one: many tensors cost one code, not a code each.

    Args:
        parts: Values of one type, on one device; one part at least.

    Returns:
        One part with the tensors of all.

    Example:
        >>> one = sparse(torch.tensor([5.0]), torch.tensor([1]), 4)
        >>> join([one, one, one]).places
        tensor([1, 5, 9])
    """
    if len(parts) == 1:
        return parts[0]
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + sum(part.numels))
    return Sparse(
        torch.cat([part.values for part in parts]),
        torch.cat([part.places + start for part, start in zip(parts, starts[:-1], strict=True)]),
        sum((part.numels for part in parts), ()),
        sum((part.counts for part in parts), ()),
    )


@final
class Layout(NamedTuple):
    """How a `Sparse` lies in bytes: values first, then the places in Rice's code.

    Example:
        >>> planned([4_000_000], [4_000], torch.float32, None).nbytes      # of 16 million
        21976
    """

    numels: tuple[int, ...]
    counts: tuple[int, ...]
    dtype: torch.dtype  # of the values as they came
    bits: int | None  # a value; None: as they are
    low: int  # low bits of a gap
    length: int  # bits for the high parts of the gaps

    @property
    def plain_bytes(self) -> int:
        """Return the bytes before the bits: the values as they are, or what their levels are made of."""
        if self.bits is None:
            return sum(self.counts) * self.dtype.itemsize
        return len(self.counts) * level_bytes(self.dtype, self.bits)

    @property
    def all_bits(self) -> int:
        """Return the number of bits of codes and gaps."""
        return sum(self.counts) * ((self.bits or 0) + self.low) + self.length

    @property
    def nbytes(self) -> int:
        """Return the bytes of all."""
        return self.plain_bytes + -(-self.all_bits // 8)


def planned(numels: Sequence[int], counts: Sequence[int], dtype: torch.dtype, bits: int | None, /) -> Layout:
    """Return the layout in which any places find room: equal on all workers without a word.

    Args:
        numels: Elements of each tensor.
        counts: Elements of each that are sent.
        dtype: The type of the values.
        bits: Bits a value, or None for values as they are.

    Returns:
        The layout; about half a bit a place longer than the code needs on average.

    Example:
        >>> planned([1000], [10], torch.float32, 4).nbytes      # instead of 4000
        24
    """
    numel, count = sum(numels), sum(counts)
    low = rice_low_bits(numel, count)
    return Layout(tuple(numels), tuple(counts), dtype, bits, low, high_bits(numel, count, low))


def fitted(part: Sparse, bits: int | None, /) -> Layout:
    """Return the shortest layout for these very places; it looks at them, so a GPU is waited for.

    Args:
        part: What is to be written.
        bits: Bits a value, or None for values as they are.

    Returns:
        The layout.

    Example:
        >>> part = sparse(torch.ones(10), torch.arange(10), 1000)       # side by side
        >>> fitted(part, None).nbytes - 40
        2
    """
    count = part.places.numel()
    gaps = part.places.diff(prepend=part.places.new_full((1,), -1)) - 1
    most = rice_low_bits(sum(part.numels), count)
    sizes = {
        low: count * (low + 1) + int((gaps >> low).sum()) for low in {0, *range(max(0, most - 2), most + 1)}
    }
    low = min(sizes, key=lambda low: (sizes[low], low))
    return Layout(part.numels, part.counts, part.values.dtype, bits, low, sizes[low] - count * low)


def write_sparse(part: Sparse, layout: Layout, /) -> Tensor:
    """Return the bytes of a part, without waiting for the device.

    Args:
        part: The elements.
        layout: How they lie.

    Returns:
        uint8, shape `(layout.nbytes,)`.

    Example:
        >>> part = sparse(torch.tensor([5.0]), torch.tensor([2]), 8)
        >>> write_sparse(part, planned([8], [1], torch.float32, None)).tolist()
        [0, 0, 160, 64, 6]
    """
    lows, highs = rice_encode(part.places, layout.low, layout.length)
    if layout.bits is None:
        return torch.cat([_bytes(part.values), _packed(torch.cat([lows, highs]))])
    codes, scales, extras = to_levels(part.values, layout.counts, layout.bits)
    planes = [((codes >> plane) & 1).to(torch.uint8) for plane in range(layout.bits)]
    return torch.cat([_bytes(scales), _bytes(extras), _packed(torch.cat([*planes, lows, highs]))])


def read_sparse(body: Tensor, layout: Layout, /) -> Sparse:
    """Return the part that `write_sparse` took, without waiting for the device.

    Args:
        body: Its bytes.
        layout: How they lie.

    Returns:
        The elements; coded values come back in float32 at least.

    Example:
        >>> body = torch.tensor([0, 0, 160, 64, 6], dtype=torch.uint8)
        >>> read_sparse(body, planned([8], [1], torch.float32, None)).places
        tensor([2])
    """
    count, wide = sum(layout.counts), scale_dtype(layout.dtype)
    plain, packed = body.split_with_sizes([layout.plain_bytes, body.numel() - layout.plain_bytes])
    bits = _unpacked(packed, layout.all_bits)
    codes, lows, highs = bits.split_with_sizes(
        [count * (layout.bits or 0), count * layout.low, layout.length]
    )
    places = rice_decode(lows, highs, count)
    if layout.bits is None:
        return Sparse(plain.clone().view(layout.dtype), places, layout.numels, layout.counts)
    tensors = len(layout.counts)
    scales, extras = plain.split_with_sizes(
        [tensors * wide.itemsize, plain.numel() - tensors * wide.itemsize]
    )
    numbers = torch.zeros_like(places)
    for plane, row in enumerate(codes.view(layout.bits, count).unbind()):
        numbers |= row.to(torch.int64) << plane
    halves = extras.clone().view(torch.float16)
    values = from_levels(
        numbers,
        layout.counts,
        scales.clone().view(wide),
        halves.view(tensors, halves.numel() // tensors),
        layout.bits,
    )
    return Sparse(values, places, layout.numels, layout.counts)


def _bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def _packed(bits: Tensor) -> Tensor:
    """Return bits as bytes: of m bytes, byte j holds bits j, m + j, 2m + j ... so each pass is contiguous."""
    filled = torch.cat([bits, bits.new_zeros(-bits.numel() % 8)])
    packed, *planes = filled.view(8, -1).unbind()
    for number, plane in enumerate(planes, 1):
        packed = packed | (plane << number)
    return packed


def _unpacked(packed: Tensor, count: int) -> Tensor:
    """Return the bits of bytes."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device).unsqueeze(1)
    return ((packed >> shifts) & 1).view(-1).narrow(0, 0, count)
