"""What a person sees of a packed model."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def table_of_packed(figures: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a row for each packed tensor, and what the whole file came to.

    Args:
        figures: `bytes`, `unpacked_bytes` and `tensors`, the rows of `tonsor.pack.listing`.
        console: Where to; standard output if not given.

    Example:
        >>> row = {"name": "w", "dtype": "F32", "shape": [20, 10], "sharing": "kmeans", "bits": 4,
        ...     "positions": "runs", "bytes": 50, "bits_each": 2.0, "factor": 16.0}
        >>> table_of_packed({"bytes": 100, "unpacked_bytes": 800, "tensors": [row]}, Console(width=70))
         tensor    size  type  sharing       zeros  bytes  bits each  times
         w       20x10   F32   kmeans 4 bit  runs      50       2.00   16.0
        800 bytes in 100 bytes with the header: 8.0 times smaller
    """
    table = Table(box=None, header_style="bold")
    for name in ("tensor", "size", "type", "sharing", "zeros"):
        table.add_column(name)
    for name in ("bytes", "bits each", "times"):
        table.add_column(name, justify="right")
    for row in figures["tensors"]:
        shared = f"{row['sharing']} {row['bits']} bit" if row["bits"] else row["sharing"]
        size = "x".join(map(str, row["shape"])) or "1"
        figures_of_row = (f"{row['bytes']:,}", f"{row['bits_each']:.2f}", f"{row['factor']:.1f}")
        table.add_row(row["name"], size, row["dtype"], shared, row["positions"], *figures_of_row)
    console = console or Console()
    console.print(table)
    before, after = figures["unpacked_bytes"], figures["bytes"]
    told = f"{before:,} bytes in {after:,} bytes with the header: {before / after:.1f} times smaller"
    console.print(told, highlight=False, soft_wrap=True)
