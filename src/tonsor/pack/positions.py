"""Where the weights that stay are: a bit for each, run lengths, or rows of columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tonsor.pack.coders import compress, expand
from tonsor.pack.streams import Flags, Reader, escaped, number, parts, unescaped

TURNED = 1  # flag of a stream: it goes down the columns


@dataclass(frozen=True)
class Positions:
    """Two functions that undo one another: a matrix of flags to bytes, and bytes to such a matrix.

    Args:
        encode: From booleans `(rows, columns)`, true where a weight stays, and the names of the coders
            that may be used, to bytes.
        decode: From those bytes, the number of rows and that of columns to the matrix. Raises ValueError
            where the bytes cannot be that, and takes no more memory than a few times the matrix.

    Example:
        >>> from tonsor.pack import POSITIONS
        >>> flags = np.array([[True, False, False], [False, False, True]])
        >>> data = POSITIONS["runs"].encode(flags, ["stored"])
        >>> bool((POSITIONS["runs"].decode(data, 2, 3) == flags).all())
        True
    """

    encode: Callable[[Flags, Sequence[str]], bytes]
    decode: Callable[[bytes, int, int], Flags]


def to_bitmap(flags: Flags, coders: Sequence[str], /) -> bytes:
    r"""Return a bit for each weight, eight to a symbol.

    Args:
        flags: `(rows, columns)`, true where a weight stays.
        coders: Names of the coders that may be used.

    Returns:
        The coded bits.

    Example:
        >>> to_bitmap(np.array([[True, False, True]]), ["stored"])
        b's\xa0'
    """
    return compress(np.packbits(flags), coders)


def from_bitmap(data: bytes, rows: int, columns: int, /) -> Flags:
    r"""Return the matrix that `to_bitmap` wrote.

    Args:
        data: What it returned.
        rows: Of the matrix.
        columns: Of the matrix.

    Returns:
        Booleans `(rows, columns)`.

    Raises:
        ValueError: If the bytes cannot be that.

    Example:
        >>> from_bitmap(b"s\xa0", 1, 3)
        array([[ True, False,  True]])
    """
    bits = np.unpackbits(expand(data, -(-rows * columns // 8)), count=rows * columns)
    return bits.view(np.bool_).reshape(rows, columns)


def to_runs(flags: Flags, coders: Sequence[str], /) -> bytes:
    r"""Return how many weights are missing before each that stays, along the rows or down the columns.

    A run of 255 or more takes further symbols, as the filler zeros of the paper.

    Args:
        flags: `(rows, columns)`, true where a weight stays.
        coders: Names of the coders that may be used.

    Returns:
        The coded runs: those of the direction that takes fewer bytes.

    Example:
        >>> to_runs(np.array([[True, False, True]]), ["stored"])   # along the rows, two runs: 0 and 1
        b'\x00\x02s\x00\x01'

    References:
        Han et al., 2016, "Deep Compression", https://arxiv.org/abs/1510.00149
    """
    return min((_directed_runs(flags, turned, coders) for turned in (0, TURNED)), key=len)


def _directed_runs(flags: Flags, turned: int, coders: Sequence[str]) -> bytes:
    """Return the runs in one direction."""
    places = np.flatnonzero(flags.T if turned else flags)
    symbols = escaped(np.diff(places, prepend=-1) - 1)
    return bytes([turned]) + number(len(symbols)) + compress(symbols, coders)


def from_runs(data: bytes, rows: int, columns: int, /) -> Flags:
    r"""Return the matrix that `to_runs` wrote.

    Args:
        data: What it returned.
        rows: Of the matrix.
        columns: Of the matrix.

    Returns:
        Booleans `(rows, columns)`.

    Raises:
        ValueError: If the bytes cannot be that.

    Example:
        >>> from_runs(b"\x00\x02s\x00\x01", 1, 3)
        array([[ True, False,  True]])
    """
    reader = Reader(data)
    turned, count = reader.take(1)[0], reader.number()
    if count > rows * columns:
        raise ValueError(f"{count:,} runs in a matrix of {rows * columns:,} weights")
    places = np.cumsum(unescaped(expand(reader.rest(), count)) + 1) - 1
    flags = np.zeros(rows * columns, np.bool_)
    flags[_below(places, rows * columns)] = True
    return flags.reshape(columns, rows).T if turned else flags.reshape(rows, columns)


def to_csr(flags: Flags, coders: Sequence[str], /) -> bytes:
    r"""Return how many weights each row has, and how far each is from the one before it in its row.

    Args:
        flags: `(rows, columns)`, true where a weight stays.
        coders: Names of the coders that may be used.

    Returns:
        The coded counts and distances.

    Example:
        >>> to_csr(np.array([[True, False, True], [False, False, False]]), ["stored"])
        b'\x04\x02s\x02\x00\x04\x02s\x00\x01'
    """
    rows, columns = np.nonzero(flags)
    steps = np.diff(columns, prepend=0)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    steps[starts] = columns[starts] + 1
    return parts([to_numbers(flags.sum(1), coders), to_numbers(steps - 1, coders)])


def from_csr(data: bytes, rows: int, columns: int, /) -> Flags:
    r"""Return the matrix that `to_csr` wrote.

    Args:
        data: What it returned.
        rows: Of the matrix.
        columns: Of the matrix.

    Returns:
        Booleans `(rows, columns)`.

    Raises:
        ValueError: If the bytes cannot be that.

    Example:
        >>> from_csr(b"\x04\x02s\x02\x00\x04\x02s\x00\x01", 2, 3)
        array([[ True, False,  True],
               [False, False, False]])
    """
    reader = Reader(data)
    counts = row_counts(reader.part(), rows, columns)
    steps = from_numbers(reader.part(), 2 * rows * columns) + 1
    reader.end()
    if len(steps) != counts.sum():
        raise ValueError(f"{len(steps):,} columns for {counts.sum():,} weights")
    ends = np.cumsum(steps)
    firsts = np.cumsum(counts) - counts
    before = np.concatenate([[0], ends])[firsts]
    places = _below(ends - np.repeat(before, counts) - 1, columns)
    flags = np.zeros((rows, columns), np.bool_)
    flags[np.repeat(np.arange(rows), counts), places] = True
    return flags


def row_counts(data: bytes, rows: int, columns: int, /) -> NDArray[np.int64]:
    """Return how many weights each row has, checked against the size of the matrix."""
    counts = from_numbers(data, rows + rows * columns)
    if len(counts) != rows or (counts > columns).any():
        raise ValueError(f"its {rows:,} rows of {columns:,} columns have counts that do not fit")
    return counts


def to_numbers(values: NDArray[np.int64], coders: Sequence[str], /) -> bytes:
    """Return whole numbers from 0, coded as bytes with an escape."""
    symbols = escaped(values)
    return number(len(symbols)) + compress(symbols, coders)


def from_numbers(data: bytes, most: int, /) -> NDArray[np.int64]:
    """Return the numbers of `to_numbers`, of which there are not more symbols than so many."""
    reader = Reader(data)
    count = reader.number()
    if count > most:
        raise ValueError(f"{count:,} numbers where at most {most:,} can be")
    return unescaped(expand(reader.rest(), count))


def _below(places: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return the places if all are inside."""
    if len(places) and (places.max() >= limit or places.min() < 0):
        raise ValueError(f"a weight lies at place {places.max():,} of {limit:,}")
    return places
