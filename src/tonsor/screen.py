"""What a person sees in the terminal: progress while it runs, tables when it is done."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tonsor.screen_width import fitting


class Quiet:
    """Show nothing.

    Example:
        >>> with Quiet() as screen: screen.event({"event": "begin", "stage": "train"})
    """

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take one event."""


class Log(Quiet):
    """Print every event as a line of JSON, with the time.

    Example:
        >>> with Log() as screen: screen.event({"event": "begin", "stage": "train"})
        {"time": ..., "event": "begin", "stage": "train"}
    """

    def event(self, event: Mapping[str, Any]) -> None:
        """Print one event."""
        sys.stdout.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")
        sys.stdout.flush()


@dataclass
class _Training:
    """What is known of one training so far."""

    steps: int = 0  # seen in this process
    clipped: int = 0
    last: Mapping[str, Any] = field(default_factory=dict)
    valid: float | None = None

    def see(self, event: Mapping[str, Any]) -> None:
        """Take one step."""
        self.steps += 1
        self.clipped += event["clipped"]
        self.last = event

    def figures(self) -> str:
        """Return everything worth showing in one line."""
        share = self.clipped / self.steps
        parts = [f"loss {self.last['loss']:.4f}", f"norm {self.last['norm']:.3g}", f"clipped {share:.0%}"]
        if self.last["sparsity"]:
            parts.append(f"sparsity {self.last['sparsity']:.1%}")
        if self.last.get("factor"):
            parts.append(f"sent 1/{self.last['factor']:.3g}")
        if self.valid is not None:
            parts.append(f"valid {self.valid:.4f}")
        return "  ".join(parts)


class Screen(Quiet):
    """Show a bar for each training; a line for each where the output is no terminal.

    Example:
        >>> with Screen(Console(width=60)) as screen:
        ...     screen.event({"event": "note", "text": "one worker"})
        one worker
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bars = Progress(
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("[dim]{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._ids: dict[str, Any] = {}
        self._trainings: dict[str, _Training] = {}
        self._began = time.time()

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""
        self._bars.stop()

    def event(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        kind = event["event"]
        if kind == "note":
            self._console.print(event["text"], highlight=False, soft_wrap=True)
        elif kind == "begin":
            self._began = time.time()
        elif kind == "done":
            self._console.print(f"{event['stage']:<9} done before", style="dim")
        elif kind == "end":
            self._end(event["stage"])
        elif kind in ("scan", "fit"):
            self._scan(event)
        else:
            self._train(event)

    def _train(self, event: Mapping[str, Any]) -> None:
        """Take a step or an evaluation of a training."""
        label = event["stage"]
        training = self._trainings.setdefault(label, _Training())
        if event["event"] == "valid":
            training.valid = event["accuracy"]
            return
        training.see(event)
        if self._console.is_terminal:
            if label not in self._ids:
                self._ids[label] = self._bars.add_task(label, total=event["of"], figures="")
            self._bars.update(self._ids[label], completed=event["step"], figures=training.figures())

    def _scan(self, event: Mapping[str, Any]) -> None:
        """Take one measurement of a scan, or one candidate of a search."""
        if self._console.is_terminal:
            kind = event["event"]
            if kind not in self._ids:
                self._ids[kind] = self._bars.add_task(kind, total=event["of"], figures="")
            figures = event.get("name", "")
            if kind == "scan":
                figures = f"{event['weight'] or 'dense'} {event['sparsity']:.0%}  loss {event['loss']:.4f}"
            self._bars.update(self._ids[kind], completed=event["done"], figures=figures)

    def _end(self, stage: str) -> None:
        """Say what a stage came to, where no bar has."""
        labels = [label for label in self._trainings if label.partition(".")[0] == stage]
        seconds = f"{time.time() - self._began:.1f} s"
        for label in labels if not self._console.is_terminal else ():
            training = self._trainings[label]
            steps = f"{training.last['step']} steps"
            self._console.print(f"{label:<9} {steps}  {training.figures()}", highlight=False, soft_wrap=True)
        if not labels:
            self._console.print(f"{stage:<9} {seconds}", style="dim", highlight=False)


def table_of(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table of a report: dense | masked | shrunk | packed.

    Args:
        report: The content of `report.json`.
        console: Where to; standard output if not given.

    Example:
        >>> figures = {"accuracy": 0.5, "parameters": 10, "nonzeros": 5, "bytes": 99, "macs": 8,
        ...     "latency_ms": {"1": {"median": 0.25, "low": 0.2, "high": 0.3}}}
        >>> table_of({"name": "a", "metric": "accuracy", "models": {"dense": figures}}, Console(width=40))
        <BLANKLINE>
                                  dense
          accuracy               0.5000
          parameters                 10
          nonzeros                    5
          bytes                      99
          MACs                        8
          ms, batch 1    0.25 (0.2-0.3)
        <BLANKLINE>
    """
    models = report["models"]
    table = Table(box=None, padding=(0, 2), header_style="bold", row_styles=["", "dim"])
    table.add_column("")
    for name in models:
        table.add_column(name, justify="right")
    table.add_row(report["metric"], *(f"{m['accuracy']:.4f}" for m in models.values()))
    for key, title in (("parameters",) * 2, ("nonzeros",) * 2, ("bytes",) * 2, ("macs", "MACs")):
        table.add_row(title, *(f"{m[key]:,}" for m in models.values()))
    for batch in next(iter(models.values()))["latency_ms"]:
        times = [m["latency_ms"][batch] for m in models.values()]
        spread = [f"{t['median']:.3g} ({t['low']:.3g}-{t['high']:.3g})" for t in times]
        table.add_row(f"ms, batch {batch}", *spread)
    console = console or Console()
    console.print()
    console.print(table)
    console.print()


def table_of_runs(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print runs side by side, a row a run and state.

    Args:
        rows: What `tonsor.report.compare` returned.
        console: Where to; standard output if not given.

    Example:
        >>> table_of_runs([{"run": "a", "model": "dense", "accuracy": 0.5}], Console(width=40))
         run   model   accuracy
         a     dense        0.5
    """
    table = Table(box=None, header_style="bold")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        is_number = any(isinstance(row.get(name), (int, float)) for row in rows)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    fitting(table, console).print(table)


def _cell(value: Any) -> str:
    """Return a figure as people write it."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
