r"""Where the weights that stay are, coded with the odds that rows and columns give.

A weight of a row that keeps many, in a column that has kept many so far, likely stays. The odds of the row,
known beforehand, and those of the column, learnt as it goes, are multiplied:

.. math:: \frac{p}{1 - p} = \frac{r}{1 - r} \cdot \frac{c}{1 - c} \Big/ \frac{d}{1 - d}

with the density :math:`d` of what was seen. Only sums, products and quotients are taken, which every machine
rounds alike: a logarithm that differs in its last digit would make a file unreadable there.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tonsor.pack.positions import TURNED, row_counts, to_numbers
from tonsor.pack.range_coder import decoded, need, unworded, words
from tonsor.pack.streams import Flags, Reader, number, parts

Floats = NDArray[np.float64]

TRUST = 4.0  # rows that the mean density counts for in the density of a column
BESIDE = 0.4  # what a kept weight counts for in a column next to it, or a lag away
HALF = 0.5  # added to counts, so that nothing is certain
GROWTH = 8  # columns are counted anew each time the rows have grown by an eighth
FARTHEST = 512  # the largest lag that is looked for
LEAST = 2.0**-14  # no odds are smaller
SAMPLE = 1 << 16  # flags that decide direction and lag


def to_context(flags: Flags, coders: Sequence[str], /) -> bytes:
    """Return the flags coded bit by bit, each with the odds that its row and its column give.

    Rows and columns change places where that is shorter. Columns learn from those beside them, and from
    those a lag away (the width of an image that the columns read, say), where that is shorter.

    Args:
        flags: `(rows, columns)`, true where a weight stays.
        coders: Names of the coders that may be used for the counts of the rows.

    Returns:
        The coded flags.

    Example:
        >>> flags = np.eye(64, dtype=bool)
        >>> bool((from_context(to_context(flags, ["range"]), 64, 64) == flags).all())
        True

    References:
        Langdon and Rissanen, 1981, "Compression of Black-White Images with Arithmetic Coding",
        https://doi.org/10.1109/TCOM.1981.1095052 (odds from a context, learnt by counting)
    """
    turns = {turned: np.ascontiguousarray(flags.T if turned else flags) for turned in (0, TURNED)}
    samples = {turned: m[: max(1, SAMPLE // max(1, m.shape[1]))] for turned, m in turns.items()}
    choices = [
        (len(_coded(sample, lag, coders)) * len(turns[turned]) / len(sample), turned, lag)
        for turned, sample in samples.items()
        for lag in {0, _lag(sample)}
    ]
    _, turned, lag = min(choices)
    return bytes([turned]) + _coded(turns[turned], lag, coders)


def from_context(data: bytes, rows: int, columns: int, /) -> Flags:
    """Return the matrix that `to_context` wrote.

    Args:
        data: What it returned.
        rows: Of the matrix.
        columns: Of the matrix.

    Returns:
        Booleans `(rows, columns)`.

    Raises:
        ValueError: If the bytes cannot be that.

    Example:
        >>> from_context(to_context(np.array([[True, False]]), ["stored"]), 1, 2)
        array([[ True, False]])
    """
    reader = Reader(data)
    turned = reader.take(1)[0]
    if turned:
        rows, columns = columns, rows
    lag = reader.number()
    if lag >= max(1, columns):
        raise ValueError(f"its columns look {lag:,} back, and there are {columns:,}")
    counts = row_counts(reader.part(), rows, columns)
    stream = need("constriction").stream
    decoder, model = stream.queue.RangeDecoder(unworded(reader)), stream.model.Bernoulli(perfect=False)
    flags = np.zeros((rows, columns), np.bool_)
    flags[counts == columns] = True
    for open_rows, chances in _contexts(flags, counts, lag):
        bits = decoded(partial(decoder.decode, model, chances))
        flags[open_rows] = bits.reshape(len(open_rows), columns) != 0
    return flags.T if turned else flags


def _coded(matrix: Flags, lag: int, coders: Sequence[str]) -> bytes:
    """Return the lag, the counts of the rows, and the flags."""
    counts = matrix.sum(1)
    stream = need("constriction").stream
    encoder, model = stream.queue.RangeEncoder(), stream.model.Bernoulli(perfect=False)
    for open_rows, chances in _contexts(matrix, counts, lag):
        encoder.encode(matrix[open_rows].ravel().astype(np.int32), model, chances)
    return number(lag) + parts([to_numbers(counts, coders)]) + words(encoder.get_compressed())


def _contexts(
    matrix: Flags, counts: NDArray[np.int64], lag: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the rows of a block that are neither empty nor full, and the chances of their flags.

    The rows before them are read from the matrix, so that a decoder can fill it as it goes.
    """
    rows, columns = matrix.shape
    density = (counts.sum() + HALF) / (rows * columns + 1) if rows * columns else HALF
    row_odds = _odds((counts + HALF) / (columns + 1))
    kept = np.zeros(columns, np.int64)
    for start, stop in _blocks(rows):
        block = np.arange(start, stop)
        block = block[(counts[start:stop] > 0) & (counts[start:stop] < columns)]
        mean = (counts[:start].sum() + TRUST * density * columns) / ((start + TRUST) * columns)
        column_odds = _odds(_densities(kept, start, mean, lag)) / _odds(mean)
        if len(block):
            both = np.multiply.outer(row_odds[block].astype(np.float32), column_odds.astype(np.float32))
            np.divide(both, both + 1, out=both)
            yield block, np.clip(both, LEAST, 1 - LEAST, out=both).ravel()
        kept += matrix[start:stop].sum(0)


def _densities(kept: NDArray[np.int64], rows: int, mean: float, lag: int) -> Floats:
    """Return the density of each column among the rows so far, the mean counting for some rows."""
    counts, seen = kept.astype(np.float64), float(rows)
    for step in (1, lag) if lag else ():
        counts[step:] += BESIDE * kept[:-step]
        counts[:-step] += BESIDE * kept[step:]
        seen += 2 * BESIDE * rows
    densities: Floats = np.minimum((counts + TRUST * mean) / (seen + TRUST), 1 - LEAST)
    return densities


def _odds(chance: Any) -> Any:
    """Return what a chance, or an array of them, is as odds."""
    return chance / (1 - chance)


def _lag(matrix: Flags) -> int:
    """Return the distance at which the counts of columns are most alike, or 0 where there are too few."""
    counts = matrix.sum(0).astype(np.float64)
    counts -= counts.mean() if len(counts) else 0.0
    farthest = min(FARTHEST, len(counts) // 2)
    alike = [float(counts[:-lag] @ counts[lag:]) for lag in range(2, farthest + 1)]
    return int(np.argmax(alike)) + 2 if alike else 0


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    """Yield where each block of rows begins and ends."""
    ends = [0]
    while ends[-1] < rows:
        ends.append(min(rows, ends[-1] + 1 + ends[-1] // GROWTH))
    yield from pairwise(ends)
