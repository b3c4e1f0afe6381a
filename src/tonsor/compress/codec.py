"""What turns a vector of numbers into fewer bytes and back, block by block."""

from collections.abc import Iterator, Sequence
from math import lcm
from typing import Protocol

import torch
from torch import Tensor

from tonsor.compress.draws import Draws

TILE = 1 << 19  # elements worked on at once: they stay in the cache, and calls are few


class Codec(Protocol):
    """Write numbers as bytes and read them back.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> codec: Codec = Grid(levels=127, block=4)
        >>> parts = empty_parts(codec, 2, torch.device("cpu"))
        >>> codec.encode(torch.tensor([127.0, -3.2]), parts, None)
        >>> codec.decode(parts, values := torch.empty(2))
        >>> values
        tensor([127.,  -3.])
    """

    block: int  # elements that share a scale

    def layout(self, count: int, /) -> list[tuple[int, torch.dtype]]:
        """Return length and type of each part of the code of `count` numbers."""
        ...

    def fitted(self, unit: int, mask: Tensor | None, /) -> "Codec":
        """Return what writes a code that can be cut after every `unit` numbers, which are whole bytes.

        Where zeros fill up the blocks, a mask that is 0 there and 1 elsewhere leaves the codes as they are;
        it may be a matrix, whose rows lie one behind the other.
        """
        ...

    def encode(self, values: Tensor, parts: list[Tensor], draws: Draws | None, /) -> None:
        """Write the code of a float32 vector into the parts."""
        ...

    def decode(self, parts: list[Tensor], values: Tensor, /) -> None:
        """Write the numbers of a code into a float32 vector."""
        ...


def empty_parts(codec: Codec, count: int, device: torch.device, /) -> list[Tensor]:
    """Return room for the code of so many numbers.

    Args:
        codec: What will write it.
        count: Numbers.
        device: Where.

    Returns:
        One vector for each part, values undefined; none for no numbers.

    Example:
        >>> from tonsor.compress.signs import Signs
        >>> [part.nbytes for part in empty_parts(Signs(block=1024), 2048, torch.device("cpu"))]
        [8, 256]
    """
    if count == 0:
        return []
    return [torch.empty(length, dtype=dtype, device=device) for length, dtype in codec.layout(count)]


def pieces_of(codec: Codec, parts: Sequence[Tensor], start: int, count: int, /) -> list[Tensor]:
    """Return the code of some neighbours out of a longer code.

    Args:
        codec: What wrote it.
        parts: The code.
        start: The first number; whole blocks and whole bytes of codes lie before it.
        count: Numbers; none that share a block or a byte may be left out, unless they are the last.

    Returns:
        Views of the parts.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> codec = Grid(levels=127, block=8)
        >>> parts = empty_parts(codec, 24, torch.device("cpu"))
        >>> [part.numel() for part in pieces_of(codec, parts, 8, 16)]
        [2, 16]
    """
    before, own = codec.layout(start), codec.layout(count)
    return [part.narrow(0, at[0], length[0]) for part, at, length in zip(parts, before, own, strict=True)]


def code_bytes(codec: Codec, count: int, /) -> int:
    """Return how many bytes the code of `count` numbers takes.

    Args:
        codec: What writes it.
        count: Numbers.

    Returns:
        Bytes.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> code_bytes(Grid(levels=7, block=256), 1024)      # half a byte each, and four scales
        528
    """
    return sum(length * dtype.itemsize for length, dtype in codec.layout(count))


def tiles(values: Tensor, block: int, /) -> Iterator[tuple[int, Tensor]]:
    """Split a vector into matrices of one block a row; what is left over is one short row.

    Args:
        values: Vector.
        block: Elements of a row.

    Yields:
        The number of the first block, and a view of shape `(rows, block)`.

    Example:
        >>> [(first, rows.tolist()) for first, rows in tiles(torch.arange(5), 2)]
        [(0, [[0, 1], [2, 3]]), (2, [[4]])]
    """
    whole, rows = values.numel() // block, max(1, TILE // block)
    for first in range(0, whole, rows):
        last = min(first + rows, whole)
        yield first, values.narrow(0, first * block, (last - first) * block).view(last - first, block)
    rest = values.numel() - whole * block
    if rest:
        yield whole, values.narrow(0, whole * block, rest).view(1, rest)


def blocks_of(count: int, block: int, /) -> int:
    """Return how many blocks hold so many elements, the last one perhaps in part.

    Args:
        count: Elements.
        block: Elements of a block.

    Returns:
        Blocks.

    Example:
        >>> blocks_of(5, 2)
        3
    """
    return -(-count // block)


def checked_block(rule: str, block: int, /) -> int:
    """Return the number of elements of a block, or say that it is none.

    Args:
        rule: Who asks.
        block: The number.

    Returns:
        `block`.

    Raises:
        ValueError: If it is below 1.

    Example:
        >>> checked_block("int8", 256)
        256
    """
    if block < 1:
        raise ValueError(f"compress.{rule}: block must be at least 1 element; got {block}")
    return block


def unit_of(block: int, /) -> int:
    """Return what codes and shares are multiples of: whole blocks, and whole bytes of one-bit codes.

    Args:
        block: Elements that stay together.

    Returns:
        Elements.

    Example:
        >>> unit_of(256), unit_of(3)
        (256, 24)
    """
    return lcm(block, 8)
