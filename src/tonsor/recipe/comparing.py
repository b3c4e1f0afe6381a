"""Measure the states of a finished run together: what each stage, and each way to run the model, is worth."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tonsor.files import write_json, write_text
from tonsor.recipe import build
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.context import Run
from tonsor.recipe.evaluate import evaluate
from tonsor.recipe.evidence import hardware
from tonsor.recipe.extra_states import State, int8_state, sparse_state
from tonsor.recipe.folder import versions
from tonsor.recipe.reporting import read_report
from tonsor.recipe.stages import states_of
from tonsor.report import compare, measure_states, render_runs, render_states
from tonsor.spelling import unknown

FIGURES, PAGE = "compare.json", "compare.html"
INT8 = "compare.int8.onnx"
MADE = {
    "dense": "as [train] left it",
    "masked": "as the last training left it, zeros stored like other weights",
    "shrunk": "what the masks left without effect is removed",
    "packed": "unpacked from the packed file",
}


@dataclass(frozen=True)
class Question:
    """Say how the states of a run are measured.

    Args:
        batches: Numbers of samples, each at least 1.
        rounds: Timed calls of each state and batch; more is steadier.
        threads: Of the CPU; 0 takes the recipe's, or torch's own.
        device: Where the states are measured. Sparse layers and int8 are for the CPU alone.

    Example:
        >>> Question().batches
        (1, 8, 64)
    """

    batches: Sequence[int] = (1, 8, 64)
    rounds: int = 50
    threads: int = 0
    device: str = "cpu"


def open_finished(path: Path, tell: Callable[[dict[str, Any]], None] = lambda event: None) -> Run:
    """Open the finished run of a folder.

    Args:
        path: The folder.
        tell: Called with a dict for every event.

    Raises:
        ValueError: If it holds no run, or one whose stages are not all done.

    Example:
        >>> open_finished(Path("no-such-run"))
        Traceback (most recent call last):
        ValueError: no-such-run holds no run; give the folder of a finished one
    """
    run = Run.of(path, tell=tell)
    if run is None:
        raise ValueError(f"{path} holds no run; give the folder of a finished one")
    for stage in run.stages:
        if run.folder.receipt(stage) is None:
            raise ValueError(
                f"{path}: stage '{stage}' of the run is not done; finish it with tonsor run, and compare then"
            )
    return run


def compare_states(run: Run, question: Question | None = None, out: Path | None = None) -> dict[str, Any]:
    """Measure the states of a run's model together: dense, masked, shrunk, packed, sparse, int8.

    States that the recipe does not make are left out. "sparse" is the last state with layers that use their
    zeros, where that is faster here; "int8" is the model before packing in ONNX Runtime. Where one of the two
    cannot be made, a note says why. The quality of every state is that on the whole test data.

    Args:
        run: A finished run.
        question: How to measure.
        out: Where `compare.json`, `compare.html` and `compare.int8.onnx` are written; the run's folder if
            not given.

    Returns:
        The figures, as in `compare.json`.

    Raises:
        ValueError: If the question is out of range, or another process works in the run's folder.
    """
    question, out = question or Question(), out or run.folder.path
    _check(question)
    run = replace(run, recipe=run.recipe.model_copy(update={"device": question.device}))
    with run.folder.locked(), _threads(question.threads or run.recipe.threads):
        figures = _measured(run, question, out)
        write_json(out / FIGURES, figures)
        write_text(out / PAGE, render_states(figures))
    return figures


def compare_runs(folders: Sequence[Path], out: Path | None = None) -> list[dict[str, Any]]:
    """Put runs side by side, a row for each run and state, with the figures of their reports.

    Args:
        folders: Of finished runs.
        out: Where `compare.json` and `compare.html` are written; nowhere if not given.

    Returns:
        What `tonsor.report.compare` returns.

    Raises:
        ValueError: If a folder holds no finished run.
    """
    rows = compare({str(folder): read_report(folder) for folder in folders})
    if out is not None:
        write_json(out / FIGURES, {"runs": rows})
        write_text(out / PAGE, render_runs(rows))
    return rows


def read_batches(given: Sequence[str]) -> tuple[int, ...]:
    """Return the batch sizes that the command was given: a number each, or several with commas between.

    Args:
        given: As typed.

    Raises:
        ValueError: If one is no number of 1 or more.

    Example:
        >>> read_batches(["1,8", "64"])
        (1, 8, 64)
    """
    words = [word.strip() for text in given for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"--batch must be numbers of 1 or more, as 1,8,64; got '{','.join(given)}'")
    return tuple(sorted({int(word) for word in words}))


def _check(question: Question) -> None:
    """Refuse a question that measures nothing."""
    if not question.batches or min(question.batches) < 1 or question.rounds < 1 or question.threads < 0:
        raise ValueError(
            "compare: name batches of 1 or more, rounds of 1 or more and threads of 0 or more; "
            f"got batches={tuple(question.batches)}, rounds={question.rounds}, threads={question.threads}"
        )
    there = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if question.device not in there:
        raise ValueError(f"compare: {unknown('device', question.device, there)}")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads meanwhile; 0 leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(run: Run, question: Question, out: Path) -> dict[str, Any]:
    """Make the states, judge them, and measure them in turns."""
    staged = states_of(run)
    states = {name: State(model, path, MADE[name]) for name, (model, path) in staged.items()}
    extra, layers, notes = _extra(run, question, out)
    states |= extra
    run.tell({"event": "note", "text": f"measuring {', '.join(states)}: {question.rounds} rounds"})
    methods = build.methods(run.recipe.train, "train", Mistakes())
    judged = {
        name: evaluate(state.model, run.data["test"], loss=methods.loss, metric=methods.metric)
        for name, state in states.items()
    }
    measured = measure_states(
        {name: state.model for name, state in states.items()},
        run.example(),
        batches=question.batches,
        rounds=question.rounds,
        known={name: state.known for name, state in states.items()},
    )
    settings = {
        "batches": list(question.batches),
        "rounds": question.rounds,
        "threads": torch.get_num_threads(),
        "device": question.device,
    }
    return {
        "name": run.recipe.name,
        "metric": run.recipe.train.metric,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "models": {
            name: {
                **judged[name],
                "bytes": state.file.stat().st_size,
                **measured[name],
                **_origin(state, run),
            }
            for name, state in states.items()
        },
        "layers": layers,
        "notes": notes,
        "settings": settings,
        "hardware": hardware(),
        "versions": versions() | ({"onnxruntime": version("onnxruntime")} if "int8" in states else {}),
    }


def _origin(state: State, run: Run) -> dict[str, str]:
    """Return where a state comes from."""
    inside = state.file.is_relative_to(run.folder.path)
    file = state.file.relative_to(run.folder.path) if inside else state.file
    return {"made": state.made, "file": file.as_posix()}


def _extra(
    run: Run, question: Question, out: Path
) -> tuple[dict[str, State], list[dict[str, Any]], list[str]]:
    """Return the states that no stage makes, the layers of the sparse one, and why a state is not there."""
    if run.device.type != "cpu":
        return {}, [], [f"sparse, int8: left out, for they run on the CPU alone; measured on {run.device}"]
    states: dict[str, State] = {}
    layers: list[dict[str, Any]] = []
    notes: list[str] = []
    try:
        states["sparse"], layers, notes = sparse_state(run, question.batches)
    except ValueError as error:
        notes.append(f"sparse: left out: {error}")
    try:
        states["int8"] = int8_state(run, out / INT8, threads=torch.get_num_threads())
        notes.append("int8: what a pass takes in memory is ONNX Runtime's own, and cannot be seen from here")
    except (ValueError, ModuleNotFoundError) as error:
        notes.append(f"int8: left out: {error}")
    return states, layers, notes
