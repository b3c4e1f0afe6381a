"""What a packed model consists of, for people."""

from typing import Any

from tonsor.pack.packed import Packed


def listing(packed: Packed, /) -> list[dict[str, Any]]:
    """Return a row for each packed tensor: how it is written, and how much smaller that made it.

    Args:
        packed: What `pack` or `load` returned.

    Returns:
        Rows of `name`, `dtype`, `shape`, `sharing`, `bits` (of a code; 0 where values are whole),
        `positions`, `bytes`, `bits_each` (bytes over elements, in bits) and `factor` (unpacked over packed).

    Example:
        >>> import torch
        >>> from tonsor.pack import pack
        >>> (row,) = listing(pack({"w": torch.zeros(1000)}))
        >>> row["name"], row["shape"], row["factor"] > 100
        ('w', [1000], True)
    """
    return [
        {
            "name": name,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "sharing": entry.rule,
            "bits": entry.bits,
            "positions": entry.positions,
            "bytes": len(entry.payload),
            "bits_each": 8 * len(entry.payload) / max(1, entry.elements),
            "factor": entry.unpacked_bytes / max(1, len(entry.payload)),
        }
        for name, entry in packed.entries.items()
    ]
