"""One message for the sparse parts of many tensors: it describes itself, and damage is noticed."""

import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tonsor.compress.levels import WIDTHS
from tonsor.compress.rice import high_bits
from tonsor.compress.sparse import Layout, Sparse, fitted, planned, read_sparse, write_sparse

VERSION = 0xD1  # the first byte of a message: what it is, and the version 1
START = struct.Struct("<BI")  # that byte, and the checksum of all that follows
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_LOW = 48  # low bits that a gap can have
FITTED = 64  # marks a layout whose code is as long as its own places need


def pack_sparse(parts: Sequence[Sparse], /, *, bits: int | None = None, is_fitted: bool = True) -> Tensor:
    r"""Return one message that holds sparse parts of tensors.

    Places are sent as the gaps between them in Rice's code, about :math:`\log_2(n / k) + 1.5` bits each, with
    a parameter of each part. A header says what follows, in about six bytes a tensor; before it stand a
    version and a CRC-32 checksum of all, five bytes.

    Args:
        parts: The elements to send, on the CPU.
        bits: 16 or 2 to 8: bits a value (see `to_levels`); more is closer. None: values as they are.
        is_fitted: True: as short as these places allow. False: of a length that depends on the numbers
            of elements alone, half a bit a place longer, so that all workers' messages are equally long.

    Returns:
        uint8 vector.

    Raises:
        ValueError: If `bits` is something else.

    Example:
        >>> from tonsor.compress.sparse import sparse
        >>> part = sparse(torch.tensor([5.0, -2.0]), torch.tensor([1, 600]), 1000)
        >>> message = pack_sparse([part])
        >>> message.numel()                     # 4000 bytes if all were sent
        24
        >>> unpack_sparse(message)[0].places
        tensor([  1, 600])

    References:
        Rice and Plaunt, 1971, "Adaptive Variable-Length Coding for Efficient Compression of Spacecraft
        Television Data", https://doi.org/10.1109/TCOM.1971.1090789
    """
    check_bits("pack_sparse", bits)
    layouts = [
        fitted(part, bits) if is_fitted else planned(part.numels, part.counts, part.values.dtype, bits)
        for part in parts
    ]
    head = _number(len(parts)) + b"".join(_described(layout, is_fitted) for layout in layouts)
    bodies = [write_sparse(part, layout) for part, layout in zip(parts, layouts, strict=True)]
    rest = torch.cat([torch.frombuffer(bytearray(head), dtype=torch.uint8), *bodies])
    start = START.pack(VERSION, zlib.crc32(rest.numpy().data))
    return torch.cat([torch.frombuffer(bytearray(start), dtype=torch.uint8), rest])


def unpack_sparse(message: Tensor, /) -> list[Sparse]:
    """Return the parts a message holds; memory is taken only for a message that is whole.

    Args:
        message: What `pack_sparse` gave, uint8, on the CPU.

    Returns:
        The parts, in their order.

    Raises:
        ValueError: If the message is damaged, cut short, too long, or of another version.

    Example:
        >>> unpack_sparse(torch.zeros(30, dtype=torch.uint8))
        Traceback (most recent call last):
        ...
        ValueError: unpack_sparse: the message begins with 0x0, a sparse message with 0xd1; ...
    """
    data = message.contiguous().numpy()
    if data.dtype != np.uint8 or data.ndim != 1 or data.size < START.size:
        raise ValueError(
            f"unpack_sparse: a message is a vector of {START.size} bytes at least; got {data.dtype} of shape "
            f"{data.shape}; pass what pack_sparse gave"
        )
    version, checksum = START.unpack_from(data.data)
    if version != VERSION:
        raise ValueError(
            f"unpack_sparse: the message begins with {version:#x}, a sparse message with {VERSION:#x}; "
            "let all workers run the same version"
        )
    if zlib.crc32(data[START.size :].data) != checksum:
        raise ValueError(
            "unpack_sparse: the checksum does not fit, so the message was damaged or cut; send it anew"
        )
    layouts, at = _layouts(data)
    bodies = message[at:].split_with_sizes([layout.nbytes for layout in layouts])
    return [_checked(read_sparse(body, layout)) for body, layout in zip(bodies, layouts, strict=True)]


def header_bytes(numel: int, count: int, /) -> int:
    """Return what the header takes for one more tensor.

    Args:
        numel: Its elements.
        count: How many of them are sent.

    Returns:
        Bytes.

    Example:
        >>> header_bytes(4_000_000, 4_000)
        6
    """
    return len(_number(numel) + _number(count))


def check_bits(where: str, bits: int | None, /) -> None:
    """Refuse a number of bits that values cannot be coded in.

    Args:
        where: Who asks, for the message.
        bits: The number, or None.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> check_bits("compress.TopK", 9)
        Traceback (most recent call last):
        ...
        ValueError: compress.TopK: bits must be one of 2, 3, 4, 5, 6, 7, 8, 16, or None; got 9
    """
    if bits is not None and bits not in WIDTHS:
        listed = ", ".join(map(str, WIDTHS))
        raise ValueError(f"{where}: bits must be one of {listed}, or None; got {bits}")


def _described(layout: Layout, is_fitted: bool) -> bytes:
    """Return the header of one part."""
    kind = DTYPES.index(layout.dtype) << 5 | (layout.bits or 0)
    sizes = b"".join(
        map(_number, [len(layout.numels), *chain(*zip(layout.numels, layout.counts, strict=True))])
    )
    ends = (
        bytes([kind, layout.low | FITTED]) + _number(layout.length)
        if is_fitted
        else bytes([kind, layout.low])
    )
    return sizes + ends


def _number(value: int) -> bytes:
    """Return a number as groups of seven bits, the lowest first; the top bit says that more follow."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _layouts(data: npt.NDArray[np.uint8]) -> tuple[list[Layout], int]:
    """Return what the header says, and where it ends, if the message is long enough for all of it."""
    at = START.size

    def byte() -> int:
        nonlocal at
        if at >= data.size:
            raise _broken("its header is cut")
        at += 1
        return int(data[at - 1])

    def number() -> int:
        value = 0
        for shift in range(0, 49, 7):
            group = byte()
            value |= (group & 0x7F) << shift
            if group < 0x80:
                return value
        raise _broken("a number is too large")

    layouts: list[Layout] = []
    size = 0
    for _ in range(number()):
        sizes = [(number(), number()) for _ in range(number())]
        layouts.append(_layout(sizes, byte(), byte(), number))
        size += layouts[-1].nbytes
    if size != data.size - at:
        raise _broken(f"its parts take {size} bytes, but {data.size - at} are there")
    return layouts, at


def _layout(sizes: list[tuple[int, int]], kind: int, low: int, number: Callable[[], int]) -> Layout:
    """Return the layout a header names, if there can be one like it."""
    numel, count = (sum(column) for column in zip((0, 0), *sizes, strict=True))
    dtype, bits, is_fitted, low = kind >> 5, kind & 31, bool(low & FITTED), low & ~FITTED
    if (
        not sizes
        or any(few > many for many, few in sizes)
        or dtype >= len(DTYPES)
        or bits not in (0, *WIDTHS)
    ):
        raise _broken(f"no part has elements {sizes} of kind {kind}")
    if low > min(numel.bit_length(), MOST_LOW):
        raise _broken(f"gaps within {numel} elements do not have {low} low bits")
    length = number() if is_fitted else high_bits(numel, count, low)
    if not count <= length <= high_bits(numel, count, low):
        raise _broken(f"{count} of {numel} places cannot take {length} high bits")
    numels, counts = zip(*sizes, strict=True)
    return Layout(numels, counts, DTYPES[dtype], bits or None, low, length)


def _checked(part: Sparse) -> Sparse:
    """Return the part if its places ascend and each tensor has as many as the header says."""
    places, ends = part.places, list(accumulate(part.numels))
    if places.numel() and (places[0] < 0 or (places.diff() <= 0).any()):
        raise _broken("its places do not ascend")
    below = torch.searchsorted(places, torch.tensor(ends)).tolist()
    if below != list(accumulate(part.counts)):
        raise _broken(f"tensors of {part.numels} elements should have {part.counts} places")
    return part


def _broken(what: str) -> ValueError:
    """Return the error for a message whose checksum fits but whose content does not."""
    return ValueError(f"unpack_sparse: the message contradicts itself: {what}; pass what pack_sparse gave")
