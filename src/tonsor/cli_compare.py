"""The command `tonsor compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tonsor.screen import Screen, table_of_runs

Folders = Annotated[list[Path], typer.Argument(help="The folder of a finished run, or several.")]


def compare(
    folders: Folders,
    batch: Annotated[
        list[str] | None, typer.Option(help="Samples in a call, as 1,8,64; may be given again.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Timed calls of each state; 50 if not given.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; the recipe's if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cpu if not given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of compare.json and compare.html; one run's own if not given.")
    ] = None,
) -> None:
    """Measure the states of a run together, or put several runs side by side.

    The states are dense, masked, shrunk, packed, sparse and int8, as far as the run has
    them. Several runs are shown with the figures of their reports, and written only where --out says so.
    """
    from tonsor.recipe import comparing
    from tonsor.screen_compare import table_of_states

    asked = {
        "batches": comparing.read_batches(batch) if batch else None,
        "rounds": rounds,
        "threads": threads,
    }
    given: dict[str, Any] = {
        key: value for key, value in {**asked, "device": device}.items() if value is not None
    }
    if len(folders) > 1:
        if given:
            raise ValueError(
                "compare: --batch, --rounds, --threads and --device go with one run, not with several"
            )
        table_of_runs(comparing.compare_runs(folders, out))
    else:
        with Screen() as tell:
            run = comparing.open_finished(folders[0], tell.event)
            table_of_states(comparing.compare_states(run, comparing.Question(**given), out))
        out = out or folders[0]
    if out is not None:
        print(out / comparing.PAGE)
