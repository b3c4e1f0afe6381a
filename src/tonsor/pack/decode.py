"""One tensor from bytes that may come from anywhere."""

import numpy as np
import torch
from torch import Tensor

from tonsor.pack.coders import expand
from tonsor.pack.coding import INLINE, POSITIONS
from tonsor.pack.entry import DTYPES, HALF, Entry
from tonsor.pack.shared import LEVELS, Shared
from tonsor.pack.streams import Reader
from tonsor.spelling import unknown


def decode(entry: Entry, /) -> Tensor:
    """Return the tensor of an entry.

    Args:
        entry: What `encode` returned. It may come from a file that nobody knows: its sizes must have been
            compared with a limit, everything else is checked here.

    Returns:
        The tensor, on the CPU.

    Raises:
        ValueError: If the bytes cannot be those of such a tensor.

    Example:
        >>> from tonsor.pack import Coding
        >>> from tonsor.pack.encode import encode
        >>> decode(encode(torch.tensor([True, False]), Coding()))
        tensor([ True, False])
    """
    reader, dtype = Reader(entry.payload), DTYPES[entry.dtype]
    table = reader.part() if entry.rule != "raw" else b""
    flags = None
    if entry.positions != INLINE:
        if entry.positions not in POSITIONS:
            raise ValueError(unknown("position", entry.positions, POSITIONS))
        flags = POSITIONS[entry.positions].decode(reader.part(), *entry.matrix).reshape(-1)
    width = dtype.itemsize if entry.rule == "raw" else 1
    count = entry.elements if flags is None else int(flags.sum())
    elements = np.zeros((entry.elements, width), np.uint8)
    for place in range(width):
        elements[slice(None) if flags is None else flags, place] = expand(reader.part(), count)
    reader.end()
    flat = torch.from_numpy(elements).reshape(-1)
    if entry.rule != "raw":
        return _unshared(entry, table, flat.view(entry.shape)).values()
    if dtype == torch.bool and bool((flat > 1).any()):
        raise ValueError("it holds booleans that are neither true nor false")
    return flat.view(dtype).view(entry.shape)


def _unshared(entry: Entry, table: bytes, codes: Tensor) -> Shared:
    """Return the shared weight that codes and a table are."""
    dtype = DTYPES[entry.dtype]
    if not dtype.is_floating_point or not 2 <= entry.bits <= 8:
        raise ValueError(f"{entry.dtype} values of {entry.bits} bits cannot be shared")
    if not 1 <= entry.groups <= max(1, entry.matrix[0]):
        raise ValueError(f"a table of {entry.groups:,} rows for {entry.matrix[0]:,} channels")
    kept = dtype if entry.rule != "uniform" else torch.promote_types(dtype, torch.float32)
    kept = torch.float16 if table[:1] == HALF else kept
    if (len(table) - 1) % (kept.itemsize * entry.groups) or len(table) < 1:
        raise ValueError(f"a table of {len(table):,} bytes in {entry.groups:,} rows")
    learned = (
        torch.frombuffer(bytearray(table[1:]), dtype=kept) if len(table) > 1 else torch.empty(0, dtype=kept)
    )
    wide = torch.promote_types(dtype, torch.float32) if entry.rule == "uniform" else dtype
    learned = (
        learned.view(entry.groups, -1).to(wide) if len(learned) else learned.view(entry.groups, 0).to(wide)
    )
    levels = 2 * (2 ** (entry.bits - 1) - 1) if entry.rule == "uniform" else learned.shape[1]
    if entry.rule == "uniform" and learned.shape[1] != 1:
        raise ValueError(f"{learned.shape[1]:,} steps a row; there is one")
    if levels >= LEVELS or int(codes.max() if codes.numel() else 0) > levels:
        raise ValueError(f"a code above the {levels} values of its table")
    return Shared(entry.rule, entry.bits, codes, learned, dtype)
