"""Bytes in fewer bytes: what codes a stream of symbols, and the choice of the one that codes it shortest."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tonsor.pack.range_coder import decode_range, encode_range, need
from tonsor.pack.streams import Bytes
from tonsor.spelling import unknown

SMALL = 1 << 16  # symbols up to which every coder is tried; a longer stream is judged by a sample
FULL = 7.9  # bits a symbol: what has more is near to pure chance, and is stored as it is where it is long


@dataclass(frozen=True)
class Coder:
    """Two functions that undo one another: symbols to bytes, and bytes to a known number of symbols.

    Args:
        mark: One letter, written before what was coded.
        encode: From uint8, 1-D, to bytes.
        decode: From those bytes and the number of symbols to the symbols. Raises ValueError where the
            bytes cannot be that, and takes no more memory than the symbols do.

    Example:
        >>> bool((STORED.decode(STORED.encode(np.arange(3, dtype=np.uint8)), 3) == [0, 1, 2]).all())
        True
    """

    mark: bytes
    encode: Callable[[Bytes], bytes]
    decode: Callable[[bytes, int], Bytes]


def _stored(symbols: Bytes) -> bytes:
    """Return the symbols as they are."""
    return symbols.tobytes()


def _unstored(data: bytes, count: int) -> Bytes:
    """Return the symbols as they are."""
    return _of_length(np.frombuffer(data, np.uint8), count)


def _deflate(symbols: Bytes) -> bytes:
    """Return the symbols coded by zlib, without its header and checksum."""
    packer = zlib.compressobj(9 if len(symbols) <= SMALL else 6, zlib.DEFLATED, -15)
    return packer.compress(symbols.data) + packer.flush()


def _inflate(data: bytes, count: int) -> Bytes:
    """Return the symbols that zlib coded."""
    try:
        found = zlib.decompressobj(-15).decompress(data, count + 1)
    except zlib.error as error:
        raise ValueError(f"a deflated stream is broken ({error})") from error
    return _of_length(np.frombuffer(found, np.uint8), count)


def _zstd(symbols: Bytes) -> bytes:
    """Return the symbols coded by Zstandard."""
    level = 19 if len(symbols) < SMALL else 3
    coded: bytes = need("zstandard").ZstdCompressor(level=level, write_content_size=True).compress(symbols)
    return coded


def _unzstd(data: bytes, count: int) -> Bytes:
    """Return the symbols that Zstandard coded."""
    library = need("zstandard")
    try:
        if library.frame_content_size(data) not in (count, -1):
            raise ValueError(f"a stream has not the {count:,} symbols it should")
        found = library.ZstdDecompressor().decompress(data, max_output_size=max(1, count))
    except library.ZstdError as error:
        raise ValueError(f"a Zstandard stream is broken ({error})") from error
    return _of_length(np.frombuffer(found, np.uint8), count)


def _of_length(found: Bytes, count: int) -> Bytes:
    """Return the symbols if there are as many as there should be."""
    if len(found) != count:
        raise ValueError(f"a stream has not the {count:,} symbols it should")
    return found


STORED = Coder(b"s", _stored, _unstored)
DEFLATE = Coder(b"d", _deflate, _inflate)
ZSTD = Coder(b"z", _zstd, _unzstd)
RANGE = Coder(b"r", encode_range, decode_range)
CODERS: dict[str, Coder] = {"range": RANGE, "zstd": ZSTD, "deflate": DEFLATE, "stored": STORED}
_BY_MARK = {coder.mark: coder for coder in CODERS.values()}


def compress(symbols: Bytes, coders: Sequence[str], /) -> bytes:
    r"""Return symbols coded by the coder that codes them shortest, after its mark.

    Up to 65,536 symbols all coders are tried; of a longer stream the middle 65,536 decide.

    Args:
        symbols: uint8, 1-D.
        coders: Names of `CODERS`; what gets no shorter is stored in any case.

    Returns:
        The mark of the coder and what it wrote.

    Raises:
        ValueError: If a coder is not known.

    Example:
        >>> compress(np.zeros(1000, np.uint8), ["range", "stored"])   # one symbol needs no odds
        b'r\x00'
    """
    for name in coders:
        if name not in CODERS:
            raise ValueError(f"pack.compress: {unknown('coder', name, CODERS)}")
    if len(symbols) <= SMALL:
        tried = (CODERS[name] for name in dict.fromkeys([*coders, "stored"]))
        return min((coder.mark + coder.encode(symbols) for coder in tried), key=len)
    middle = (len(symbols) - SMALL) // 2
    sample = symbols[middle : middle + SMALL]
    if entropy(np.bincount(sample)) > FULL * SMALL:
        return STORED.mark + STORED.encode(symbols)
    best = min((CODERS[name] for name in coders), key=lambda coder: len(coder.encode(sample)))
    return best.mark + best.encode(symbols)


def expand(data: bytes, count: int, /) -> Bytes:
    """Return the symbols that `compress` coded.

    Args:
        data: What it returned.
        count: How many symbols there are.

    Returns:
        uint8, `(count,)`.

    Raises:
        ValueError: If the bytes cannot be that.

    Example:
        >>> expand(compress(np.array([3, 1, 3], np.uint8), ["stored"]), 3).tolist()
        [3, 1, 3]
    """
    coder = _BY_MARK.get(data[:1])
    if coder is None:
        raise ValueError(f"a stream is coded by {data[:1]!r}, which this tonsor does not know")
    return coder.decode(data[1:], count)


def entropy(counts: NDArray[np.int64], /) -> float:
    r"""Return the bits that symbols need at the least if they are independent: :math:`-\sum n \log_2 p`.

    Args:
        counts: How often each symbol occurs.

    Returns:
        Bits of all of them together.

    Example:
        >>> entropy(np.array([4, 4]))
        8.0
    """
    there = counts[counts > 0].astype(np.float64)
    return float((there * (np.log2(there.sum()) - np.log2(there))).sum())
