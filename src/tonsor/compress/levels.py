"""Signed values in a few bits each: levels in equal ratios between the smallest and the largest magnitude."""

from collections.abc import Sequence

import torch
from torch import Tensor

HALF = 16  # bits of a half-precision number
WIDTHS = (2, 3, 4, 5, 6, 7, 8, HALF)  # bits a value can take when it is coded
OCTAVES = 16  # magnitudes are told apart down to so many halvings below the largest


def scale_dtype(dtype: torch.dtype, /) -> torch.dtype:
    """Return the type in which coded values of a type come back.

    Args:
        dtype: The values' own.

    Returns:
        float32, or the type itself where it is wider.

    Example:
        >>> scale_dtype(torch.float16)
        torch.float32
    """
    return torch.promote_types(dtype, torch.float32)


def level_bytes(dtype: torch.dtype, bits: int, /) -> int:
    """Return how many bytes one tensor's levels take.

    Args:
        dtype: The values' own.
        bits: Bits a value.

    Returns:
        The bytes of the largest magnitude, and of what else the levels are made of.

    Example:
        >>> [level_bytes(torch.float32, bits) for bits in (2, 3, 4, 8, 16)]
        [8, 12, 8, 8, 4]
    """
    return scale_dtype(dtype).itemsize + 2 * _extras(bits)


def to_levels(values: Tensor, counts: Sequence[int], bits: int, /) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return values of several tensors as codes of a few bits, with what each tensor's levels are made of.

    With 16 bits the code is the half-precision number :math:`v / M`, M being the tensor's largest
    magnitude, so nothing overflows. With fewer the first bit is the sign and the others number one of
    :math:`m = 2^{bits-1}` magnitudes. They part the way from the smallest magnitude to M in equal ratios, so
    that the relative error depends on how far the magnitudes spread, not on how large they are; what is
    smaller than :math:`M / 2^{16}` but not zero counts as that. From 4 bits on a level is the middle of
    its part; with 2 and 3 bits the mean of what fell there, which the message carries. Where there are
    zeros, one level is theirs: they stay zero. Where one value of a tensor is not finite, none of it comes
    back finite.

    Args:
        values: Floating-point numbers of T tensors, end to end, shape `(k,)`.
        counts: How many are each tensor's.
        bits: 16, or 2 to 8: bits a value; more is closer.

    Returns:
        Codes, int64 of shape `(k,)`; M, float32 at least, of shape `(T,)`; and float16 numbers of shape
        `(T, e)`: none with 16 bits, the levels over M with 2 and 3, else the smallest magnitude
        over M and whether there are zeros.

    Example:
        >>> codes, scales, extras = to_levels(torch.tensor([8.0, -2.0, 4.0, 2.0]), [4], 2)
        >>> codes.tolist(), scales.tolist(), extras.tolist()      # the means of 2 and 2, and of 8 and 4
        ([1, 2, 1, 0], [8.0], [[0.25, 0.75]])
    """
    wide = values.to(scale_dtype(values.dtype))
    sizes, owners = wide.abs(), owners_of(counts, values.device)
    scales = torch.stack(
        [part.amax() if part.numel() else part.sum() for part in sizes.split_with_sizes(list(counts))]
    )
    divisors = torch.where(scales == 0, 1, scales).take(owners)
    if bits == HALF:
        halves = (wide / divisors).to(torch.float16)
        return halves.view(torch.int16).to(torch.int64) & 0xFFFF, scales, halves.new_empty(len(counts), 0)
    shares, most = sizes / divisors, 2 ** (bits - 1)
    shares = torch.where(shares > 0, shares.clamp(min=2.0**-OCTAVES), shares)
    zeros = _least(shares, counts) == 0
    least = _least(torch.where(shares > 0, shares, 1), counts).half()
    room = (most - zeros.to(wide.dtype)) / -least.to(wide.dtype).log2()
    number = (shares.log2() * room.take(owners) + most).nan_to_num(most).floor()
    number = number.clamp(max=most - 1).maximum(zeros.take(owners).to(wide.dtype))
    number = torch.where(shares == 0, 0, number).to(torch.int64)
    extras = (
        _means(shares, number, counts, most) if _is_listed(bits) else torch.stack([least, zeros.half()], 1)
    )
    return number + (wide < 0).to(torch.int64) * most, scales, extras


def from_levels(codes: Tensor, counts: Sequence[int], scales: Tensor, extras: Tensor, bits: int, /) -> Tensor:
    """Return the values that codes stand for.

    Args:
        codes: What `to_levels` gave, int64.
        counts: How many are each tensor's.
        scales: The largest magnitudes, shape `(T,)`.
        extras: What the levels are made of, float16, shape `(T, e)`.
        bits: Bits a value, as given to `to_levels`.

    Returns:
        The values, of the scales' type.

    Example:
        >>> scales, extras = torch.tensor([8.0]), torch.tensor([[0.25, 0.75]]).half()
        >>> from_levels(torch.tensor([1, 2, 1, 0]), [4], scales, extras, 2)
        tensor([ 6., -2.,  6.,  2.])
    """
    owners = owners_of(counts, codes.device)
    if bits == HALF:
        halves = torch.where(codes >= 1 << 15, codes - (1 << 16), codes).to(torch.int16).view(torch.float16)
        return halves.to(scales.dtype) * scales.take(owners)
    wide = extras.to(scales.dtype)
    levels = wide if _is_listed(bits) else _middles(wide, 2 ** (bits - 1))
    levels = levels * scales.unsqueeze(1)
    return torch.cat([levels, -levels], 1).take(codes + owners * 2**bits)


def owners_of(counts: Sequence[int], device: torch.device, /) -> Tensor:
    """Return for each of the values, end to end, the number of the tensor it is of.

    Args:
        counts: How many values are each tensor's.
        device: Where.

    Returns:
        int64, shape `(k,)`.

    Example:
        >>> owners_of([2, 0, 1], torch.device("cpu"))
        tensor([0, 0, 2])
    """
    numbers = torch.arange(len(counts), device=device)
    return numbers.repeat_interleave(torch.tensor(counts).to(device), output_size=sum(counts))


def _extras(bits: int) -> int:
    """Return how many half-precision numbers a tensor's levels need beside the largest magnitude."""
    if bits == HALF:
        return 0
    return 2 ** (bits - 1) if _is_listed(bits) else 2


def _is_listed(bits: int) -> bool:
    """Tell whether the message lists the levels: where they are few it pays, the error is a third to half."""
    return bits <= 3


def _least(shares: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the smallest share of each tensor, 1 where it has none."""
    parts = shares.split_with_sizes(list(counts))
    return torch.stack([part.amin() if part.numel() else part.sum() + 1 for part in parts])


def _means(shares: Tensor, number: Tensor, counts: Sequence[int], most: int) -> Tensor:
    """Return the mean of what fell to each level; no scatter, whose order of adding a GPU does not keep."""
    rows = []
    for part, levels in zip(
        shares.split_with_sizes(list(counts)), number.split_with_sizes(list(counts)), strict=True
    ):
        fell = [levels == level for level in range(most)]
        sums = [torch.where(here, part, 0).sum() / here.sum().clamp(min=1) for here in fell]
        rows.append(torch.stack(sums).half())
    return torch.stack(rows)


def _middles(wide: Tensor, most: int) -> Tensor:
    """Return the middles of equal ratios from the least share to 1, behind a zero where there are zeros."""
    least, zeros = wide.chunk(2, dim=1)
    numbers = torch.arange(most, dtype=wide.dtype, device=wide.device)
    levels = (least.log2() * (most - numbers - 0.5) / (most - zeros)).exp2()
    return torch.where(numbers < zeros, 0, levels)
