"""What a person sees of the states of a run, measured together."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tonsor.report.page import table
from tonsor.screen_width import fitting

ROOM = 100  # columns of a terminal that spreads fit into
DASH = "\N{EN DASH}"
LAYERS = 12  # that are told of, at most


def table_of_states(comparison: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a column for each state, and the notes.

    Args:
        comparison: The content of a `compare.json`.
        console: Where to; standard output if not given. On a narrow terminal spreads are left out.

    Example:
        >>> figures = {"accuracy": 0.5, "latency_ms": {"1": {"median": 0.25, "low": 0.2, "high": 0.3}}}
        >>> comparison = {"metric": "accuracy", "models": {"dense": figures}, "notes": ["int8: left out"],
        ...     "settings": {"threads": 1, "rounds": 5}}
        >>> table_of_states(comparison, Console(width=110))
        <BLANKLINE>
                                  dense
        accuracy                 50.0 %
        latency, batch 1       0.250 ms
                            0.200-0.300
        <BLANKLINE>
        int8: left out
        Medians of 5 rounds with 1 thread, below them the 10th and 90th percentile.
    """
    console = console or Console()
    spread = console.width >= ROOM or not console.is_terminal
    drawn = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    drawn.add_column("", no_wrap=True)
    for state in comparison["models"]:
        drawn.add_column(state, justify="right")
    for row in table(comparison):
        drawn.add_row(row.name, *(cell.text or "-" for cell in row.cells))
        if spread and any(cell.spread for cell in row.cells):
            drawn.add_row("", *(cell.spread.replace(DASH, "-") for cell in row.cells), style="dim")
    console.print()
    fitting(drawn, console).print(drawn)
    console.print()
    layers = [f"sparse: layer {layer['name']}: {layer['why']}" for layer in comparison.get("layers", [])]
    more = (
        [f"sparse: {len(layers) - LAYERS} more layers are told of in the page"]
        if len(layers) > LAYERS
        else []
    )
    for line in [*layers[:LAYERS], *more, *comparison.get("notes", [])]:
        console.print(line, highlight=False, soft_wrap=True)
    rounds, threads = (comparison["settings"][key] for key in ("rounds", "threads"))
    told = f"Medians of {rounds} rounds with {threads} thread{'s' if threads > 1 else ''}"
    below = ", below them the 10th and 90th percentile" if spread else ""
    console.print(f"{told}{below}.", highlight=False, soft_wrap=True)
