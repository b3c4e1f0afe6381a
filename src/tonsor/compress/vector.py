"""Gradients as flat vectors, cut into one share for each worker."""

import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from tonsor.compress.codec import Codec, blocks_of, unit_of

SMALL = 1024  # a gradient with fewer elements for each worker is summed by one of them
JOINED = 1 << 18  # gradients with fewer elements are coded together
TOGETHER = "small gradients"  # the name of the vector of these


class Run(NamedTuple):
    """Shares of a vector that lie side by side: where they start, how long they are, whose they are.

    Example:
        >>> Run(8, 6, [1, 0]).length
        6
    """

    start: int
    length: int
    ranks: Sequence[int]


class Vector(NamedTuple):
    """Gradients as one float32 vector, where each rank's share starts and how long it is, and their code.

    All shares but the last one are whole units, after which a code can be cut, so that neighbours are
    coded at once. The mask is 1 for a number and 0 for what only fills up a block; None where there is
    nothing of that.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> vector = Vector(torch.arange(10.0), [(8, 2), (0, 8)], Grid(levels=7, block=4), 8)
        >>> vector.share(0, vector.values)
        tensor([8., 9.])
    """

    values: Tensor
    shares: list[tuple[int, int]]
    codec: Codec
    unit: int
    mask: Tensor | None = None

    def share(self, rank: int, of: Tensor) -> Tensor:
        """Return a rank's share of a vector of this length."""
        return of.narrow(0, *self.shares[rank])

    def others(self, rank: int) -> list[Run]:
        """Return what lies before and behind a rank's share; each is left out where it is empty.

        Example:
            >>> from tonsor.compress.grid import Grid
            >>> Vector(torch.empty(24), [(16, 8), (0, 8), (8, 8)], Grid(levels=7, block=4), 8).others(2)
            [Run(start=0, length=8, ranks=[1]), Run(start=16, length=8, ranks=[0])]
        """
        own, length = self.shares[rank]
        parts = sorted((start, count, other) for other, (start, count) in enumerate(self.shares) if count)
        before = [part for part in parts if part[0] < own]
        behind = [part for part in parts if part[0] >= own + length]
        return [
            Run(side[0][0], sum(count for _, count, _ in side), [other for *_, other in side])
            for side in (before, behind)
            if side
        ]

    def codec_for(self, start: int, count: int, times: int = 1) -> Codec:
        """Return the code of some elements, or of as many rows that are like them."""
        mask = None if self.mask is None else self.mask.narrow(0, start, count).expand(times, count)
        return self.codec.fitted(self.unit, mask)


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
    unit = unit_of(codec.block)
    shares = spans(name, grad.numel(), unit, size)
    longest = max(count for _, count in shares)
    return Vector(grad.reshape(-1).to(torch.float32), shares, codec, blocks_of(longest, unit) * unit)


def join(vectors: dict[str, Vector], /) -> dict[str, list[tuple[str, int, int]]]:
    """Replace small vectors by one that has the shares of each owner side by side, and tell what lies where.

    Two hundred small gradients took four times as long one by one. Each piece is filled up to whole
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
        {'a': [('small gradients', 0, 6)], 'b': [('small gradients', 8, 6)]}
        >>> vectors["small gradients"].shares
        [(0, 16)]
    """
    small = {name: vector for name, vector in vectors.items() if vector.values.numel() < JOINED}
    places: dict[str, list[tuple[str, int, int]]] = {name: [] for name in small}
    if small:
        pieces, starts, vectors[TOGETHER] = _side_by_side(small)
        for piece, start in sorted(zip(pieces, starts, strict=False), key=lambda pair: pair[0].start):
            places[piece.name].append((TOGETHER, start, piece.length))
            vectors.pop(piece.name, None)
    return places


class _Piece(NamedTuple):
    """A rank's share of a small gradient."""

    name: str
    rank: int
    start: int
    length: int


def _side_by_side(small: dict[str, Vector]) -> tuple[list[_Piece], list[int], Vector]:
    """Return the shares of all, rank by rank, where each lies, and the vector they lie in."""
    values, owned, codec, *_ = next(iter(small.values()))
    size, unit = len(owned), unit_of(codec.block)
    zeros = values.new_zeros(unit)
    held = [(name, rank, *vector.shares[rank]) for rank in range(size) for name, vector in small.items()]
    pieces = [_Piece(*piece) for piece in held if piece[-1]]
    rooms = [blocks_of(piece.length, unit) * unit for piece in pieces]
    ones = zeros.new_ones(max(rooms))
    row: list[Tensor] = []
    marks: list[Tensor] = []
    shares = [(0, 0)] * size
    starts = [0, *accumulate(rooms)]
    for (name, rank, start, count), room, at in zip(pieces, rooms, starts, strict=False):
        filling = zeros.narrow(0, 0, room - count)
        row += [small[name].values.narrow(0, start, count), filling]
        marks += [ones.narrow(0, 0, count), filling]
        first, length = shares[rank]
        shares[rank] = (first if length else at, length + room)
    return pieces, starts, Vector(torch.cat(row), shares, codec, unit, torch.cat(marks))


def spans(name: str, count: int, block: int, size: int, /) -> list[tuple[int, int]]:
    """Cut a gradient into one share for each worker, of whole blocks and equal but for the last ones.

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
    length = blocks_of(blocks_of(count, block), shares) * block
    ends = [min(count, length * (share + 1)) for share in range(shares)]
    found = [(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    found += [(0, 0)] * (size - shares)
    turn = zlib.crc32(name.encode()) % size
    return found[turn:] + found[:turn]
