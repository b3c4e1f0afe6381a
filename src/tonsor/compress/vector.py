"""Gradients as flat vectors, cut into one share for each worker."""

import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from tonsor.compress.codec import Codec, blocks_of

SMALL = 1024  # a gradient with fewer elements for each worker is summed by one of them
JOINED = 1 << 18  # the shares of gradients with fewer elements are coded together


class Vector(NamedTuple):
    """Gradients as one float32 vector, where each rank's share starts and how long it is, and their code.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> vector = Vector(torch.arange(6.0), [(0, 4), (4, 2)], Grid(levels=7, block=4))
        >>> vector.share(1, vector.values)
        tensor([4., 5.])
    """

    values: Tensor
    shares: list[tuple[int, int]]
    codec: Codec

    def share(self, rank: int, of: Tensor) -> Tensor:
        """Return a rank's share of a vector of this length."""
        return of.narrow(0, *self.shares[rank])


def vector_of(name: str, grad: Tensor, size: int, codec: Codec) -> Vector:
    """Return one gradient as a vector.

    Args:
        name: Of the gradient.
        grad: Of any shape and type.
        size: Workers.
        codec: What its shares are sent in.

    Returns:
        The vector; it may share the gradient's memory.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> vector_of("w", torch.ones(2, 3), 2, Grid(levels=7, block=4)).shares
        [(0, 6), (0, 0)]
    """
    return Vector(grad.reshape(-1).to(torch.float32), spans(name, grad.numel(), codec.block, size), codec)


def join(vectors: dict[str, Vector], /) -> dict[str, list[tuple[str, int, int]]]:
    """Replace the shares each owner has of small vectors by one vector, and tell where each piece lies.

    Two hundred small gradients took four times as long one by one. Each share is filled up to whole
    blocks, so its codes are those it would have alone.

    Args:
        vectors: By name; changed.

    Returns:
        For each gradient its pieces in order: in which vector, from where, how many elements.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> codec = Grid(levels=7, block=4)
        >>> vectors = {name: vector_of(name, torch.ones(6), 1, codec) for name in ("a", "b")}
        >>> join(vectors)
        {'a': [('small of 0', 0, 6)], 'b': [('small of 0', 8, 6)]}
        >>> vectors["small of 0"].shares
        [(0, 16)]
    """
    places: dict[str, list[tuple[str, int, int]]] = {}
    pieces: dict[int, list[Tensor]] = {}
    size, codec = next((len(vector.shares), vector.codec) for vector in vectors.values())
    for name in [name for name, vector in vectors.items() if vector.values.numel() < JOINED]:
        values, shares, _ = vectors.pop(name)
        places[name] = []
        for (start, count), rank in sorted(zip(shares, range(size), strict=True)):
            if count:
                row = pieces.setdefault(rank, [])
                places[name].append((f"small of {rank}", sum(piece.numel() for piece in row), count))
                row += [values.narrow(0, start, count), values.new_zeros(-count % codec.block)]
    for rank, row in pieces.items():
        whole, ones = torch.cat(row), row[0].new_ones(max(piece.numel() for piece in row[::2]))
        mask = torch.cat([ones.narrow(0, 0, p.numel()) if i % 2 == 0 else p for i, p in enumerate(row)])
        owned = [(0, whole.numel() if other == rank else 0) for other in range(size)]
        vectors[f"small of {rank}"] = Vector(whole, owned, codec.masked(mask))
    return places


def spans(name: str, count: int, block: int, size: int, /) -> list[tuple[int, int]]:
    """Cut a gradient into one share for each worker, of whole blocks and nearly equal.

    A small gradient goes to one worker. Which worker gets the first share is told by the name, so that
    many small ones are spread.

    Args:
        name: Of the gradient.
        count: Its elements.
        block: Elements that stay together.
        size: Workers.

    Returns:
        For each rank the first element and the number of elements, perhaps 0.

    Example:
        >>> spans("w", 5000, 256, 2)
        [(0, 2560), (2560, 2440)]
    """
    shares = size if count >= SMALL * size else 1
    blocks = blocks_of(count, block)
    ends = [min(count, blocks * (share + 1) // shares * block) for share in range(shares)]
    found = [(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    found += [(0, 0)] * (size - shares)
    turn = zlib.crc32(name.encode()) % size
    return found[turn:] + found[:turn]
