"""What a person sees of a search for a small model when it is done."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def table_of_fit(figures: Mapping[str, Any], why: Sequence[str] = (), console: Console | None = None) -> None:
    """Print the frontier, a row a candidate that no other one beats, with the pick marked.

    Args:
        figures: The content of `fit.json`.
        why: Lines that say how the pick was chosen.
        console: Where to; standard output if not given.

    Example:
        >>> row = {"name": "a", "cut": 0.5, "sparsity": 0.9, "bits": {"w": 3, "b": 8}, "bytes": 1234,
        ...     "latency_ms": 0.5, "metric": 0.9, "fall": 0.4, "ways": {"dense layers": 0.5}}
        >>> dense = {"bytes": 80000, "latency_ms": 1.0, "metric": 0.904}
        >>> table_of_fit({"rows": [row], "frontier": ["a"], "pick": row, "dense": dense}, ["smallest"],
        ...     Console(width=70))
            work cut  zeros  bits   bytes   ms  metric  fall  runs as
                                   80,000    1  0.9040        dense
         *       50%  90.0%   3-8   1,234  0.5  0.9000  0.40  dense layers
        smallest
    """
    console = console or Console()
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for name in ("work cut", "zeros", "bits", "bytes", "ms", "metric", "fall"):
        table.add_column(name, justify="right")
    table.add_column("runs as")
    dense, pick = figures["dense"], figures["pick"]
    first = (f"{dense['bytes']:,}", f"{dense['latency_ms']:.3g}", f"{dense['metric']:.4f}")
    table.add_row("", "", "", "", *first, "", "dense")
    rows = {row["name"]: row for row in figures["rows"]} | {pick["name"]: pick}
    for name in dict.fromkeys([*figures["frontier"], pick["name"]]):
        row = rows[name]
        mark = "*" if name == pick["name"] else ""
        is_timed = row.get("timed") == pick.get("timed")  # with another batch or other threads says nothing
        table.add_row(mark, *_cells(row, is_timed), style="bold" if mark else "")
    console.print(table)
    for line in why:
        console.print(line, highlight=False, soft_wrap=True)


def _cells(row: Mapping[str, Any], is_timed: bool) -> list[str]:
    """Return the figures of a candidate as people write them, time only where it can be compared."""
    bits = sorted(set(row["bits"].values()))
    return [
        f"{row['cut']:.0%}",
        f"{row['sparsity']:.1%}",
        "-".join(str(count) for count in dict.fromkeys([bits[0], bits[-1]])),
        f"{row['bytes']:,}",
        f"{min(row['ways'].values()):.3g}" if is_timed else "",
        f"{row['metric']:.4f}",
        f"{row['fall']:.2f}",
        min(row["ways"], key=lambda way: row["ways"][way]) if is_timed else "",
    ]
