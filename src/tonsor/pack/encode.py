"""One tensor to bytes: which elements are not zero, and the codes or the bytes of those."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tonsor.pack.coders import SMALL, compress, entropy
from tonsor.pack.coding import INLINE, POSITIONS, Coding
from tonsor.pack.entry import HALF, NAMES, WHOLE, Entry
from tonsor.pack.shared import LEVELS, Shared
from tonsor.pack.streams import Bytes, Flags, parts

LARGE = 1 << 20  # elements from which a part of the rows is measured instead of all
SAMPLE = 1 << 17  # elements of that part
WORTH = 0.97  # of the next best: what the slow coder must come below where there is much to code
PROBE = 4096  # elements that tell whether a tensor may have few values
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element
Whole = NDArray[Any]  # whole numbers that have the bits of the elements


def encode(given: Tensor | Shared, coding: Coding, /) -> Entry:
    """Return a tensor as few bytes, bit for bit.

    A tensor of few values becomes a palette and codes. Else its bytes are coded plane by plane: those of the
    exponents apart from those of the last digits.

    Args:
        given: A dense tensor of any type, or a shared weight.
        coding: What may be used.

    Returns:
        The entry; `decode` gives back the tensor, or `given.values()`.

    Raises:
        ValueError: If the tensor is sparse, quantised, or of a type that files cannot hold.

    Example:
        >>> from tonsor.pack.decode import decode
        >>> entry = encode(torch.tensor([0.0, 2.5, 0.0, 2.5]), Coding())
        >>> entry.rule, decode(entry)
        ('palette', tensor([0.0000, 2.5000, 0.0000, 2.5000]))
    """
    if isinstance(given, Shared):
        codes = given.codes.cpu().contiguous().numpy().reshape(-1)
        draft = Entry(
            NAMES[given.dtype], tuple(given.codes.shape), given.rule, given.bits, given.groups, "", b""
        )
        return _positioned(draft, _table_bytes(given), codes, coding)
    if given.layout != torch.strided or given.is_quantized or given.is_meta or given.dtype not in NAMES:
        raise ValueError(
            f"a {given.dtype} tensor of layout {given.layout} on {given.device} cannot be packed"
        )
    plain = given.detach().cpu().contiguous().resolve_conj().resolve_neg()
    elements = plain.reshape(-1).view(BITS[plain.dtype.itemsize]).numpy()
    palette = _palette(plain, elements)
    if palette is not None:
        return encode(palette, coding)
    draft = Entry(NAMES[plain.dtype], tuple(plain.shape), "raw", 0, 0, "", b"")
    return _positioned(draft, b"", elements, coding)


def _palette(plain: Tensor, elements: Whole) -> Shared | None:
    """Return a tensor as codes where it has at most 255 values beside zero and is longer than its table."""
    if not plain.is_floating_point() or plain.dtype.itemsize == 1:
        return None
    if len(np.unique(elements[:PROBE])) > LEVELS:
        return None
    found = np.unique(elements)
    found = found[found != 0]
    if not 0 < len(found) < min(LEVELS, len(elements) // 2):
        return None
    codes = np.where(elements == 0, 0, np.searchsorted(found, elements) + 1).astype(np.uint8)
    learned = torch.from_numpy(found).view(plain.dtype)[None]
    bits = max(2, len(found).bit_length())
    return Shared("palette", bits, torch.from_numpy(codes).view(plain.shape), learned, plain.dtype)


def _table_bytes(shared: Shared) -> bytes:
    """Return what was learned: in half precision where that is exact, one step a row or all levels."""
    learned = shared.learned.detach().cpu().contiguous()
    stored = learned if shared.rule == "uniform" else learned.to(shared.dtype)
    half = stored.half()
    if stored.dtype.itemsize > 2 and torch.equal(
        half.to(stored.dtype).view(torch.uint8), stored.view(torch.uint8)
    ):
        return HALF + half.view(torch.uint8).numpy().tobytes()
    return WHOLE + stored.view(torch.uint8).numpy().tobytes()


def _positioned(draft: Entry, table: bytes, elements: Whole, coding: Coding) -> Entry:
    """Return the entry with its zeros written in the way that takes the fewest bytes."""
    flags = (elements != 0).reshape(draft.matrix)
    best = INLINE if flags.all() else _best(flags, elements, coding)
    places = [] if best == INLINE else [POSITIONS[best].encode(flags, coding.coders)]
    kept = elements if best == INLINE else elements[flags.reshape(-1)]
    streams = [compress(plane, coding.coders) for plane in _planes(kept)]
    payload = parts([*([table] if table else []), *places, *streams])
    return Entry(draft.dtype, draft.shape, draft.rule, draft.bits, draft.groups, best, payload)


def _best(flags: Flags, elements: Whole, coding: Coding) -> str:
    """Return the name of the positions that take the fewest bytes; of a large tensor a part is measured."""
    rows, columns = flags.shape
    count = rows if flags.size <= LARGE else max(1, SAMPLE // columns)
    start = (rows - count) // 2
    part, values = flags[start : start + count], elements.reshape(rows, columns)[start : start + count]
    ways = [name for name in coding.positions if name != INLINE]
    sizes = {name: float(len(POSITIONS[name].encode(part, coding.coders))) for name in ways}
    if INLINE in coding.positions:
        sizes[INLINE] = _size(values.reshape(-1), coding) - _size(values[part], coding)
    if flags.size > LARGE and len(sizes) > 1 and "context" in sizes:
        others = min(size for name, size in sizes.items() if name != "context")
        sizes["context"] /= WORTH if sizes["context"] < others else 1
    return min(sizes, key=lambda name: sizes[name])


def _size(elements: Whole, coding: Coding) -> float:
    """Return how many bytes coded elements take: measured where they are few, else as their entropy says."""
    if len(elements) <= SMALL:
        return sum(len(compress(plane, coding.coders)) for plane in _planes(elements))
    return sum(entropy(np.bincount(plane)) / 8 for plane in _planes(elements))


def _planes(elements: Whole) -> list[Bytes]:
    """Return each byte of the elements as a stream of its own, the lowest first."""
    size = elements.dtype.itemsize
    each = elements.astype(elements.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1, size)
    return [np.ascontiguousarray(each[:, place]) for place in range(size)]
