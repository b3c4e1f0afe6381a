"""Numbers and byte strings one after another, and a reader that trusts none of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]

ESCAPE = 255  # a byte that adds 255 and says that the number goes on, as the filler zeros of the paper do
DIGITS = 7  # bits of a number that a byte holds
LONGEST = 9  # bytes of the longest number: 63 bits


def number(value: int, /) -> bytes:
    """Return a whole number in as few bytes as it needs, the lowest seven bits first."""
    digits = []
    while value >= 1 << DIGITS:
        digits.append(value & 127 | 128)
        value >>= DIGITS
    return bytes([*digits, value])


def parts(pieces: Iterable[bytes], /) -> bytes:
    """Return byte strings one after another, each after its length."""
    return b"".join(number(len(piece)) + piece for piece in pieces)


class Reader:
    """Take numbers and byte strings off the front of some bytes.

    Args:
        data: What is read.

    Raises:
        ValueError: From every method, where less is there than is asked for.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def number(self) -> int:
        """Return the next whole number."""
        value = 0
        for place in range(LONGEST):
            (digit,) = self.take(1)
            value |= (digit & 127) << DIGITS * place
            if digit < 1 << DIGITS:
                return value
        raise ValueError("a number goes on for too long")

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > len(self._data) - self._place:
            raise ValueError(
                f"it ends {count - len(self._data) + self._place:,} bytes before what it says it has"
            )
        self._place += count
        return self._data[self._place - count : self._place]

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(len(self._data) - self._place)

    def part(self) -> bytes:
        """Return the next byte string that `parts` wrote."""
        return self.take(self.number())

    def end(self) -> None:
        """Make sure that nothing is left over."""
        if self._place != len(self._data):
            raise ValueError(f"it has {len(self._data) - self._place:,} bytes more than it says")


def escaped(values: NDArray[np.int64], /) -> Bytes:
    """Return whole numbers from 0 as bytes: 255 stands for 255 and goes on, any other byte ends a number."""
    times = values // ESCAPE
    if not times.any():
        return values.astype(np.uint8)
    ends = np.cumsum(times + 1) - 1
    written = np.full(int(ends[-1]) + 1, ESCAPE, np.uint8)
    written[ends] = values % ESCAPE
    return written


def unescaped(written: Bytes, /) -> NDArray[np.int64]:
    """Return the whole numbers of `escaped`."""
    ends = np.flatnonzero(written != ESCAPE)
    if len(written) and (not len(ends) or ends[-1] != len(written) - 1):
        raise ValueError("the last number has no end")
    if len(ends) == len(written):
        return written.astype(np.int64)
    sums = np.cumsum(written, dtype=np.int64)[ends]
    return np.diff(sums, prepend=0)
