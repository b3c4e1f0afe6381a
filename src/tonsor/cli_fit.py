"""The command `tonsor fit`."""

from pathlib import Path
from typing import Annotated

import typer

from tonsor.cli_stop import exit_status, stopper
from tonsor.screen import Screen


def fit(  # noqa: PLR0913 - a budget has three sides
    source: Annotated[Path, typer.Argument(help="A run's folder, or a recipe.", show_default=False)],
    max_bytes: Annotated[str | None, typer.Option("--bytes", help="Of the file: 40000, 40k, 40KiB.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Of a call, on this machine.")] = None,
    max_loss: Annotated[float | None, typer.Option(help="Of the metric, in hundredths: 0.5.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a call that is timed.")] = 1,
    tune: Annotated[int, typer.Option(min=0, help="Epochs in which the pick is trained at last.")] = 0,
    candidates: Annotated[int, typer.Option(min=1, help="At most so many are tried.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a recipe's run; runs/NAME if not given.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as train.epochs=3.")
    ] = None,
) -> None:
    """Find the best small model within a budget: channels cut, zeros, and bits by tensor.

    Trains first where a recipe has not been trained yet. Goes on where it was stopped.
    """
    from tonsor.recipe import fitting_run, inspecting
    from tonsor.screen_fit import table_of_fit

    limits = fitting_run.limits_of(max_bytes, latency_ms, max_loss)
    try:
        with Screen() as tell:
            run, text = inspecting.open_run(source, out, changes or [], tell.event, stopper())
            ask = fitting_run.Ask(limits, batch=batch, tune=tune, candidates=candidates)
            fitted = fitting_run.fit_run(run, text, ask)
    except KeyboardInterrupt as stopped:
        raise typer.Exit(exit_status(stopped)) from stopped
    table_of_fit(fitted.figures, [*fitted.why, str(fitted.path)])
