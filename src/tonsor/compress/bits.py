"""Small integers and signs packed into bytes, by planes."""

from itertools import pairwise

import torch
from torch import Tensor

PLANES = 1 << 21  # elements whose signs are packed at once


def pack(codes: Tensor, packed: Tensor, bits: int, /) -> None:
    """Pack small numbers into bytes: byte j holds those at j, m + j, 2m + j ... for m bytes.

    Planes lie side by side in memory, so each is one fast pass; neighbours in one byte were measured to
    take ten times as long.

    Args:
        codes: uint8 vector, values below `2 ** bits`.
        packed: uint8 vector of `ceil(n · bits / 8)` elements, written.
        bits: 1, 2 or 4.

    Example:
        >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), out := torch.empty(2, dtype=torch.uint8), 4)
        >>> out                      # 1 + 16 · 3, and 2
        tensor([49,  2], dtype=torch.uint8)
    """
    length = packed.numel()
    put(packed, codes.narrow(0, 0, length))
    for plane, part in enumerate(_planes(codes, length, 8 // bits)):
        if plane:
            packed.narrow(0, 0, part.numel()).add_(part, alpha=1 << (bits * plane))


def unpack(packed: Tensor, codes: Tensor, bits: int, /) -> None:
    """Write what `pack` packed into `codes`.

    Args:
        packed: uint8 vector.
        codes: uint8 vector, written.
        bits: As they were packed with.

    Example:
        >>> unpack(torch.tensor([49, 2], dtype=torch.uint8), out := torch.empty(3, dtype=torch.uint8), 4)
        >>> out
        tensor([1, 2, 3], dtype=torch.uint8)
    """
    for plane, part in enumerate(_planes(codes, packed.numel(), 8 // bits)):
        torch.bitwise_right_shift(packed.narrow(0, 0, part.numel()), bits * plane, out=part)
        part.bitwise_and_((1 << bits) - 1)


def pack_signs(values: Tensor, packed: Tensor, /) -> None:
    """Pack one bit an element: 1 where it is at least 0.

    Args:
        values: Vector of n numbers.
        packed: uint8 vector of `ceil(n / 8)` elements, written; laid out as by `pack`.

    Example:
        >>> pack_signs(torch.tensor([1.0, -2.0, 3.0]), out := torch.empty(1, dtype=torch.uint8))
        >>> out
        tensor([5], dtype=torch.uint8)
    """
    length, width = packed.numel(), PLANES // 8
    found = torch.empty(min(length, width), dtype=torch.bool, device=values.device)
    planes = _planes(values, length, 8)
    for start in range(0, length, width):
        bits = packed.narrow(0, start, min(width, length - start))
        for plane, whole in enumerate(planes):
            part = _piece(whole, start, bits.numel())
            if plane:
                is_set = torch.ge(part, 0, out=found.narrow(0, 0, part.numel())).view(torch.uint8)
                bits.narrow(0, 0, part.numel()).add_(is_set, alpha=1 << plane)
            else:
                torch.ge(part, 0, out=bits.view(torch.bool))


def unpack_signs(packed: Tensor, values: Tensor, /) -> None:
    """Write a float32 with the right sign and no particular size for each bit.

    Args:
        packed: uint8 vector, as by `pack_signs`.
        values: float32 vector, written: -0.0 or another negative where the bit was 0.

    Example:
        >>> unpack_signs(torch.tensor([5], dtype=torch.uint8), out := torch.empty(3))
        >>> out.signbit()
        tensor([False,  True, False])
    """
    length, width = packed.numel(), PLANES // 8
    planes = _planes(values.view(torch.int32), length, 8)
    wide = torch.empty(min(length, width), dtype=torch.int32, device=values.device)
    for start in range(0, length, width):
        part = packed.narrow(0, start, min(width, length - start))
        lanes = put(wide.narrow(0, 0, part.numel()), part).bitwise_not_()  # the bit 1 is a negative's
        for plane, whole in enumerate(planes):
            out = _piece(whole, start, part.numel())
            torch.bitwise_left_shift(lanes.narrow(0, 0, out.numel()), 31 - plane, out=out)


def _planes(values: Tensor, length: int, planes: int) -> list[Tensor]:
    """Return a vector cut to pieces of one length; the last ones may be shorter, or empty."""
    ends = [min(plane * length, values.numel()) for plane in range(planes + 1)]
    return [values.narrow(0, start, end - start) for start, end in pairwise(ends)]


def _piece(values: Tensor, start: int, count: int) -> Tensor:
    """Return so many elements, or as many as there are."""
    start = min(start, values.numel())
    return values.narrow(0, start, min(count, values.numel() - start))


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
