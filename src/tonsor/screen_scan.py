"""What a person sees of a sensitivity scan when it is done."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = 5  # sparsities that are shown, the last ones


def table_of_scan(figures: Mapping[str, Any], console: Console | None = None) -> None:
    """Print by how much the loss rises with each weight pruned alone, and what is suggested.

    Args:
        figures: The content of `sensitivity.json`.
        console: Where to; standard output if not given.

    Example:
        >>> scan = {"part": "valid", "dense": {"loss": 0.5}, "importance": "magnitude", "pattern": "element",
        ...     "weights": {"0.weight": {"size": 1200, "sparsity": [0.5, 0.9], "loss": [0.51, 0.9]}},
        ...     "suggestion": {"sparsities": {"0.weight": 0.53}, "sparsity": 0.53, "loss": 0.54}}
        >>> table_of_scan(scan, Console(width=70))
        <BLANKLINE>
        Loss on the valid data 0.5000, and its rise with one weight pruned ...
         weight     elements     50%     90%   suggested
         0.weight      1,200 +0.0100 +0.4000       53.0%
         all           1,200                       53.0%
        Predicted loss of the suggestion: 0.5400, the rises added up.
    """
    console = console or Console()
    weights, dense, suggested = figures["weights"], figures["dense"]["loss"], figures["suggestion"]
    asked = next(iter(weights.values()))["sparsity"][-COLUMNS:]
    table = Table(box=None, header_style="bold")
    table.add_column("weight")
    for title in ("elements", *(f"{sparsity:.3g}%" for sparsity in (100 * s for s in asked)), "suggested"):
        table.add_column(title, justify="right")
    for name, of in weights.items():
        rises = [f"{loss - dense:+.4f}" for loss in of["loss"][-COLUMNS:]]
        table.add_row(name, f"{of['size']:,}", *rises, f"{suggested['sparsities'][name]:.1%}")
    total = sum(of["size"] for of in weights.values())
    table.add_row("all", f"{total:,}", *[""] * len(asked), f"{suggested['sparsity']:.1%}", style="bold")
    rules = f"{figures['importance']}, {figures['pattern']}"
    console.print(
        f"\nLoss on the {figures['part']} data {dense:.4f}, and its rise with one weight pruned ({rules}):",
        highlight=False,
    )
    console.print(table)
    console.print(
        f"Predicted loss of the suggestion: {suggested['loss']:.4f}, the rises added up.", highlight=False
    )
