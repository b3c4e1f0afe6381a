"""Small integers and signs packed into bytes, by planes."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

TILE = 1 << 21  # elements worked on at once


def pack(codes: Tensor, packed: Tensor, bits: int, unit: int = 0, /) -> None:
    """Pack small numbers into bytes: of m bytes, byte j holds those at j, m + j, 2m + j ...

    Planes lie side by side in memory, so each is one fast pass; neighbours in one byte were measured to
    take ten times as long. What is packed unit by unit can be cut between units.

    Args:
        codes: uint8 vector, values below `2 ** bits`.
        packed: uint8 vector of `ceil(n · bits / 8)` elements, written.
        bits: 1, 2 or 4.
        unit: Elements that are packed by themselves, whole bytes; what is left over is a shorter unit.
            0: all are one.

    Example:
        >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), out := torch.empty(2, dtype=torch.uint8), 4)
        >>> out                      # 1 + 16 · 3, and 2
        tensor([49,  2], dtype=torch.uint8)
    """
    for planes, found in _tiles(codes, packed, bits, unit):
        put(found, planes[0])
        for plane, part in enumerate(planes[1:], 1):
            found.narrow(1, 0, part.shape[1]).add_(part, alpha=1 << (bits * plane))


def unpack(packed: Tensor, codes: Tensor, bits: int, unit: int = 0, /) -> None:
    """Write what `pack` packed into `codes`.

    Args:
        packed: uint8 vector.
        codes: uint8 vector, written.
        bits: As they were packed with.
        unit: As they were packed with.

    Example:
        >>> unpack(torch.tensor([49, 2], dtype=torch.uint8), out := torch.empty(3, dtype=torch.uint8), 4)
        >>> out
        tensor([1, 2, 3], dtype=torch.uint8)
    """
    for planes, held in _tiles(codes, packed, bits, unit):
        for plane, part in enumerate(planes):
            torch.bitwise_right_shift(held.narrow(1, 0, part.shape[1]), bits * plane, out=part)
            part.bitwise_and_((1 << bits) - 1)


def pack_signs(values: Tensor, packed: Tensor, unit: int = 0, /) -> None:
    """Pack one bit an element: 1 where it is at least 0.

    Args:
        values: Vector of n numbers.
        packed: uint8 vector of `ceil(n / 8)` elements, written; laid out as by `pack`.
        unit: As in `pack`.

    Example:
        >>> pack_signs(torch.tensor([1.0, -2.0, 3.0]), out := torch.empty(1, dtype=torch.uint8))
        >>> out
        tensor([5], dtype=torch.uint8)
    """
    scratch = torch.empty(min(packed.numel(), TILE // 8), dtype=torch.bool, device=values.device)
    for planes, found in _tiles(values, packed, 1, unit):
        torch.ge(planes[0], 0, out=found.view(torch.bool))
        for plane, part in enumerate(planes[1:], 1):
            is_set = torch.ge(part, 0, out=scratch.narrow(0, 0, part.numel()).view(part.shape))
            found.narrow(1, 0, part.shape[1]).add_(is_set.view(torch.uint8), alpha=1 << plane)


def unpack_signs(packed: Tensor, values: Tensor, unit: int = 0, /) -> None:
    """Write a float32 with the right sign and no particular size for each bit.

    Args:
        packed: uint8 vector, as by `pack_signs`.
        values: float32 vector, written: -0.0 or another negative where the bit was 0.
        unit: As they were packed with.

    Example:
        >>> unpack_signs(torch.tensor([5], dtype=torch.uint8), out := torch.empty(3))
        >>> out.signbit()
        tensor([False,  True, False])
    """
    scratch = torch.empty(min(packed.numel(), TILE // 8), dtype=torch.int32, device=values.device)
    for planes, held in _tiles(values.view(torch.int32), packed, 1, unit):
        lanes = put(scratch.narrow(0, 0, held.numel()).view(held.shape), held)
        lanes.bitwise_not_()  # the bit 1 is a negative's
        for plane, part in enumerate(planes):
            torch.bitwise_left_shift(lanes.narrow(1, 0, part.shape[1]), 31 - plane, out=part)


def _tiles(values: Tensor, packed: Tensor, bits: int, unit: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield bytes of some units, a row each, and the planes that go into them; the last may be shorter."""
    for rows, row_bytes in _units(values, packed, bits, unit):
        length, width = row_bytes.shape[1], max(1, TILE * bits // 8 // len(rows))
        ends = [min(plane * length, rows.shape[1]) for plane in range(8 // bits + 1)]
        planes = [rows.narrow(1, start, end - start) for start, end in pairwise(ends)]
        for start in range(0, length, width):
            piece = row_bytes.narrow(1, start, min(width, length - start))
            yield [_piece(plane, start, piece.shape[1]) for plane in planes], piece


def _units(values: Tensor, packed: Tensor, bits: int, unit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield units as rows of a matrix, and the bytes of each row; what is left over is one short row."""
    unit = unit or values.numel() + 1
    whole, count, width = values.numel() // unit, max(1, TILE // unit), unit * bits // 8
    for first in range(0, whole, count):
        rows = min(count, whole - first)
        yield (
            values.narrow(0, first * unit, rows * unit).view(rows, unit),
            packed.narrow(0, first * width, rows * width).view(rows, width),
        )
    left, left_bytes = values.numel() - whole * unit, packed.numel() - whole * width
    if left:
        yield (
            values.narrow(0, whole * unit, left).view(1, left),
            packed.narrow(0, whole * width, left_bytes).view(1, left_bytes),
        )


def _piece(rows: Tensor, start: int, count: int) -> Tensor:
    """Return so many columns, or as many as there are."""
    start = min(start, rows.shape[1])
    return rows.narrow(1, start, min(count, rows.shape[1] - start))


def put(target: Tensor, source: Tensor, /) -> Tensor:
    """Write the elements of one tensor into another one, in its type.

    Named so because `Tensor.copy_` also asks for the device itself, which a fake tensor does not have.

    Args:
        target: Written.
        source: Of the same shape, on the same device.

    Returns:
        `target`.

    Example:
        >>> put(torch.empty(2, dtype=torch.int8), torch.tensor([1.0, -2.0]))
        tensor([ 1, -2], dtype=torch.int8)
    """
    written: Tensor = torch.ops.aten.copy_(target, source)
    return written
