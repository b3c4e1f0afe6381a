"""The command: run, check, list, report, compare. The only file that prints, with those it is made of."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from tonsor.cli_compare import compare
from tonsor.cli_fit import fit
from tonsor.cli_stop import exit_status, stopper
from tonsor.screen import Log, Quiet, Screen, table_of, table_of_runs

app = typer.Typer(
    help="Train with clipped gradients, prune, fine-tune, shrink, export and explain PyTorch models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
look = typer.Typer(help="Look into the model of a run.", no_args_is_help=True)
app.add_typer(look, name="inspect")
app.command()(compare)
app.command()(fit)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a TOML file.", show_default=False)]
Change = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as train.epochs=3.")
]


@app.command()
def run(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME if not given.")] = None,
    changes: Change = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the training.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only print where the report lies.")] = False,
    log: Annotated[
        bool, typer.Option("--log", "--jsonl", help="Print events as JSON lines; under torchrun --jsonl.")
    ] = False,
) -> None:
    """Train, prune, fine-tune, shrink, export and report, as a recipe says; go on where a run stopped."""
    if workers > 1 and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(_start_workers(workers))
    from tonsor.recipe.context import Run
    from tonsor.recipe.crew import Crew
    from tonsor.recipe.folder import RunFolder
    from tonsor.recipe.read import read_recipe
    from tonsor.recipe.reporting import read_report
    from tonsor.recipe.run import run_recipe

    checked = read_recipe(recipe, changes or [])
    folder = RunFolder(out or Path("runs") / checked.name)
    crew = Crew.join()
    tell = _teller(quiet=quiet, log=log) if crew.is_first else Quiet()
    try:
        with tell:
            run_recipe(Run(checked, folder, crew, tell.event, stopper()), recipe.read_text())
    except KeyboardInterrupt as stopped:
        raise typer.Exit(exit_status(stopped)) from stopped
    crew.leave()
    if crew.is_first and not log:
        if not quiet:
            table_of(read_report(folder.path))
        print(folder.path / "report.html")


@app.command()
def check(recipe: RecipeFile, changes: Change = None) -> None:
    """Build everything a recipe names and try each rule on a small weight, without training."""
    from tonsor.recipe.check import check_recipe
    from tonsor.recipe.read import read_recipe

    for line in check_recipe(read_recipe(recipe, changes or [])):
        print(line)


@app.command("list")
def list_rules(kind: Annotated[str | None, typer.Argument(help="One kind only, as clip.")] = None) -> None:
    """Show every rule a recipe may name, with its keys and defaults."""
    from tonsor.recipe.check import describe

    for line in describe(kind):
        print(line)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Draw the report of a run again, from its figures."""
    from tonsor.recipe.reporting import read_report, write_report

    print(write_report(folder, read_report(folder))[-1])


@app.command()
def netbench(
    model: Annotated[
        str, typer.Option(help="Function that builds it, as package.module:function; else 7.9M parameters.")
    ] = "",
    shape: Annotated[str, typer.Option(help="Of a worker's input, the batch first.")] = "16,512",
    tokens: Annotated[int, typer.Option(help="Size of the vocabulary, where the input is tokens.")] = 0,
    steps: Annotated[int, typer.Option(help="Timed steps of each method.")] = 10,
    method: Annotated[
        list[str] | None, typer.Option(help="A rule, as TopK; may be given again. Else all.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine; or use torchrun.")] = 1,
) -> None:
    """Time each way to compress gradients on your own link and model.

    Between machines start it as `torchrun --nnodes ... -m tonsor netbench`.
    """
    if workers > 1 and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(_start_workers(workers))
    from tonsor.recipe import netbench as bench
    from tonsor.recipe.crew import Crew

    question = bench.Question(model, bench.sizes_of(shape), tokens, steps, method or ())
    crew = Crew.join()
    with Screen() if crew.is_first else Quiet() as tell:
        rows = bench.netbench(crew, question, tell.event)
    crew.leave()
    if crew.is_first:
        table_of_runs(rows)


@look.command("sensitivity")
def inspect_sensitivity(
    source: Annotated[Path, typer.Argument(help="A run's folder, or a recipe.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder of a recipe's run; runs/NAME if not given.")
    ] = None,
    changes: Change = None,
    importance: Annotated[str, typer.Option(help="What scores the weights.")] = "magnitude",
    pattern: Annotated[str, typer.Option(help="What lives or dies together.")] = "element",
    sparsity: Annotated[float | None, typer.Option(help="Suggest how to remove this fraction.")] = None,
    max_loss: Annotated[float | None, typer.Option(help="Suggest what can go up to this loss.")] = None,
) -> None:
    """Measure the dense model with one weight pruned at a time, and suggest a sparsity for each.

    Trains first where a recipe has not been trained yet. Goes on where it was stopped.
    """
    from tonsor.recipe import inspecting
    from tonsor.screen_scan import table_of_scan

    question = inspecting.Question(importance, pattern, sparsity=sparsity, max_loss=max_loss)
    try:
        with Screen() as tell:
            run, text = inspecting.open_run(source, out, changes or [], tell.event, stopper())
            figures = inspecting.inspect_sensitivity(run, text, question)
    except KeyboardInterrupt as stopped:
        raise typer.Exit(exit_status(stopped)) from stopped
    table_of_scan(figures)
    print(run.folder.path / inspecting.PICTURE)


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="A safetensors file.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The packed file; MODEL.tonsor if not given.")] = None,
    bits: Annotated[
        list[str] | None, typer.Option(help="Of shared values: 4, or *.bias=6; nothing is lost without.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Find bits that take no more.")] = None,
    sharing: Annotated[str, typer.Option(help="How values are shared: kmeans or uniform.")] = "kmeans",
) -> None:
    """Make a model few bytes: shared values, positions of zeros, entropy coding."""
    from tonsor.recipe.packed_files import pack_file, read_bits
    from tonsor.screen_pack import table_of_packed

    path = out or model.with_suffix(".tonsor")
    table_of_packed(pack_file(model, path, bits=read_bits(bits or []), max_bytes=max_bytes, sharing=sharing))
    print(path)


@app.command()
def unpack(
    packed: Annotated[Path, typer.Argument(help="A packed file.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="PACKED.safetensors if not given.")] = None,
) -> None:
    """Write what a packed file holds as safetensors."""
    from tonsor.recipe.packed_files import unpack_file

    for path in unpack_file(packed, out or packed.with_suffix(".safetensors")):
        print(path)


def _teller(*, quiet: bool, log: bool) -> "Screen | Quiet | Log":
    """Choose who shows the events."""
    if log:
        return Log()
    return Quiet() if quiet else Screen()


def _start_workers(workers: int) -> int:
    """Run this same command in several processes, and return the exit status."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    # torchrun would take --log for one of its own
    arguments = ["--jsonl" if argument == "--log" else argument for argument in sys.argv[1:]]
    return subprocess.call([*torchrun, "-m", "tonsor", *arguments])


def main() -> None:
    """Run the command; a user's mistake is told in a few lines, without a traceback."""
    warnings.formatwarning = lambda message, *_, **__: f"tonsor: {message}\n"
    sys.path.insert(0, str(Path.cwd()))  # a recipe may name modules that lie where the command is called
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:  # what a user can mend
        print(f"tonsor: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
