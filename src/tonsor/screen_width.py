"""A console that a table fits on."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 1000  # columns of what is no terminal


def fitting(table: Table, console: Console | None = None) -> Console:
    """Return a console on which a table is whole: what is no terminal is as wide as it must be.

    Args:
        table: The table.
        console: Where to; standard output if not given.

    Example:
        >>> table = Table("a" * 100)
        >>> fitting(table, Console(width=20)).width
        104
    """
    console = console or Console()
    if console.is_terminal:
        return console
    needed = Measurement.get(console, console.options.update(width=WIDEST), table).maximum
    return Console(file=console.file, width=max(console.width, needed))
