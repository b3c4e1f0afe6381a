"""Gradients as flat vectors, cut into one share for each worker."""

import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from tonsor.compress.codec import Codec, blocks_of

SMALL = 8192  # a gradient with fewer elements for each worker is summed by one of them


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


def join(vectors: dict[str, Vector]) -> dict[str, tuple[str, int]]:
    """Replace the small vectors of each owner by one, and tell where each lies in which.

    Two hundred small gradients took eight times as long one by one. Each is filled up to whole blocks, so
    its codes are those it would have alone.

    Args:
        vectors: By name; changed.

    Returns:
        For each small gradient the name of the vector it is in, and its first element.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> codec = Grid(levels=7, block=4)
        >>> vectors = {name: vector_of(name, torch.ones(6), 1, codec) for name in ("a", "b")}
        >>> join(vectors)
        {'a': ('small of 0', 0), 'b': ('small of 0', 8)}
        >>> vectors["small of 0"].shares
        [(0, 16)]
    """
    places: dict[str, tuple[str, int]] = {}
    pieces: dict[int, list[Tensor]] = {}
    for name, (values, shares, codec) in list(vectors.items()):
        if values.numel() < SMALL * len(shares):
            owner = next(rank for rank, (_, count) in enumerate(shares) if count)
            row = pieces.setdefault(owner, [])
            places[name] = (f"small of {owner}", sum(piece.numel() for piece in row))
            row += [values, values.new_zeros(-values.numel() % codec.block)]
    size, codec = next((len(vector.shares), vector.codec) for vector in vectors.values())
    for name in places:
        del vectors[name]
    for owner, row in pieces.items():
        whole, ones = torch.cat(row), row[0].new_ones(max(piece.numel() for piece in row[::2]))
        mask = torch.cat([ones.narrow(0, 0, p.numel()) if i % 2 == 0 else p for i, p in enumerate(row)])
        shares = [(0, whole.numel() if rank == owner else 0) for rank in range(size)]
        vectors[f"small of {owner}"] = Vector(whole, shares, codec.masked(mask))
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
        >>> spans("w", 20000, 256, 2)
        [(0, 9984), (9984, 10016)]
    """
    shares = size if count >= SMALL * size else 1
    blocks = blocks_of(count, block)
    ends = [min(count, blocks * (share + 1) // shares * block) for share in range(shares)]
    found = [(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    found += [(0, 0)] * (size - shares)
    turn = zlib.crc32(name.encode()) % size
    return found[turn:] + found[:turn]
