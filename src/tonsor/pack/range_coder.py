"""A range coder whose odds are learnt as it goes, on the coder of the library constriction."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tonsor.pack.streams import Bytes, Reader, number

FIRST = 64  # symbols of the first block, about which nothing is known
GROWTH = 4  # each block is as long as a quarter of all before it, so that what was seen fits what comes
LONGEST = 1 << 20  # symbols of a block at most: the code follows a stream that changes
UNSEEN = 0.1  # count of a symbol that did not occur so far


def encode_range(symbols: Bytes) -> bytes:
    r"""Return the symbols coded by a range coder that learns their odds as it goes.

    The odds of a block are those of all symbols before it. So no table is written, and what is written
    depends on whole numbers alone: it is the same on every machine.
    """
    stream = need("constriction").stream
    kinds = int(symbols.max(initial=0)) + 1
    encoder, seen = stream.queue.RangeEncoder(), np.zeros(kinds, np.int64)
    for start, stop in _blocks(len(symbols)):
        block = symbols[start:stop]
        if kinds > 1:
            encoder.encode(block.astype(np.int32), odds(stream, seen))
        seen += np.bincount(block, minlength=kinds)
    return number(kinds - 1) + words(encoder.get_compressed())


def decode_range(data: bytes, count: int) -> Bytes:
    """Return the symbols that the range coder coded."""
    stream = need("constriction").stream
    reader = Reader(data)
    kinds = reader.number() + 1
    if kinds > 256:
        raise ValueError(f"a stream has symbols up to {kinds - 1}; a byte holds 255")
    found = np.zeros(count, np.uint8)
    if kinds > 1:
        decoder, seen = stream.queue.RangeDecoder(unworded(reader)), np.zeros(kinds, np.int64)
        for start, stop in _blocks(count):
            found[start:stop] = decoded(partial(decoder.decode, odds(stream, seen), stop - start))
            seen += np.bincount(found[start:stop], minlength=kinds)
    return found


def odds(stream: Any, seen: NDArray[np.int64], /) -> Any:
    """Return the model of symbols of which so many have been seen."""
    return stream.model.Categorical(seen + UNSEEN, perfect=False)


def decoded(call: Callable[[], NDArray[np.int32]], /) -> NDArray[np.int32]:
    """Return what a decoder of constriction gives, or say that its bytes are broken."""
    try:
        return call()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"a range coded stream is broken ({error})") from error


def words(coded: NDArray[np.uint32], /) -> bytes:
    """Return words as bytes in the order that every machine reads them in."""
    return coded.astype("<u4").tobytes()


def unworded(reader: Reader, /) -> NDArray[np.uint32]:
    """Return the words that are left in a reader."""
    data = reader.rest()
    if len(data) % 4:
        raise ValueError(f"a range coded stream has {len(data):,} bytes, which are no whole words")
    return np.frombuffer(data, "<u4").astype(np.uint32)


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Yield where each block begins and ends."""
    ends = [0]
    while ends[-1] < count:
        length = min(max(FIRST, ends[-1] // GROWTH), LONGEST)
        ends.append(min(count, ends[-1] + length))
    yield from pairwise(ends)


def need(package: str) -> ModuleType:
    """Import a package of the extra, or say how to install it."""
    try:
        return __import__(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"pack needs {package}: pip install 'tonsor[pack]'; to write files without it, give "
            "coders=('deflate', 'stored') and positions without 'context'",
            name=package,
        ) from error
