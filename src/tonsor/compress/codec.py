"""What turns a vector of numbers into fewer bytes and back, block by block."""

from collections.abc import Iterator
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

    def masked(self, mask: Tensor, /) -> "Codec":
        """Return what writes the same codes where zeros, which the mask marks by 0, fill up the blocks."""
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
