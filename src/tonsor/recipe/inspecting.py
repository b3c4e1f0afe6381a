"""Look into the dense model of a run: how much it loses when one weight alone is pruned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tonsor.files import write_json, write_text
from tonsor.prune import Masks, Measured, Sensitivity, collect, find_masks, needs, scan_sensitivity
from tonsor.recipe import build
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.binding import Mistakes, bind_rule
from tonsor.recipe.context import Interrupted, Run
from tonsor.recipe.evaluate import evaluate
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.read import RecipeError, read_recipe
from tonsor.recipe.reporting import SENSITIVITY, add_to_report
from tonsor.recipe.run import run_recipe
from tonsor.recipe.schema import Rule
from tonsor.recipe.selection import prunable
from tonsor.recipe.tables import TABLES
from tonsor.report import sensitivities
from tonsor.tensors import fingerprint

ROWS = "sensitivity.jsonl"
PICTURE = "sensitivity.svg"
CALIBRATION = 8  # batches for the statistics an importance asks for
RISE = 0.05  # of the dense loss: what the suggestion may cost, if nothing else is asked


@dataclass(frozen=True)
class Question:
    """Say what a sensitivity scan prunes, and what it shall suggest.

    Args:
        importance: Name of the rule that scores.
        pattern: Name of the rule that joins elements to units.
        include: Names of weights, with `*` and `?`.
        exclude: Names of weights, with `*` and `?`; stronger than `include`.
        sparsities: Fractions removed, one after the other.
        sparsity: Suggest how to remove this fraction of all; or
        max_loss: suggest the most that can be removed up to this loss.

    Example:
        >>> Question(sparsity=0.9).importance
        'magnitude'
    """

    importance: str = "magnitude"
    pattern: str = "element"
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    sparsities: Sequence[float] = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    sparsity: float | None = None
    max_loss: float | None = None


def open_run(
    source: Path, out: Path | None, changes: Sequence[str], tell: Callable[[dict[str, Any]], None], stop: Any
) -> tuple[Run, str | None]:
    """Open the run of a folder, or of a recipe.

    Args:
        source: The folder of a run whose dense model is trained, or a recipe.
        out: Folder of a recipe's run; runs/NAME if not given.
        changes: `"key=value"` each, as `read_recipe` takes them; for a recipe only.
        tell: Called with a dict for every event.
        stop: Asked whether to stop.

    Returns:
        The run, and the recipe as written where its train stage may have to be run first.

    Raises:
        ValueError: If the folder holds no trained model, or is given together with `out` or `changes`.

    Example:
        >>> open_run(Path("/"), None, [], print, None)
        Traceback (most recent call last):
        ValueError: / holds no run with a trained model; give the folder of one, or a recipe
    """
    if not source.is_dir():
        recipe = read_recipe(source, changes)
        folder = RunFolder(out or Path("runs") / recipe.name)
        return Run(recipe, folder, tell=tell, stop=stop), source.read_text()
    if out is not None or changes:
        raise ValueError(f"{source} is a run, whose recipe stands; --out and --set go with a recipe")
    run = Run.of(source, tell=tell, stop=stop)
    if run is None or run.folder.receipt("train") is None:
        raise ValueError(f"{source} holds no run with a trained model; give the folder of one, or a recipe")
    return run, None


def inspect_sensitivity(run: Run, text: str | None, question: Question) -> dict[str, Any]:
    """Scan the dense model of a run on data it was not trained on, and suggest a sparsity for each weight.

    The train stage is run first where it is not done. The rows are kept in the run's folder as they are
    measured, and a scan that was stopped goes on; figures and a plot follow, and the report, if there
    already is one, is drawn again with them.

    Args:
        run: The run.
        text: The recipe as written, if the train stage may be run; else None.
        question: What to prune, and what to suggest.

    Returns:
        The figures, as in `sensitivity.json`.

    Raises:
        RecipeError: If a rule is not known.
        ValueError: If what is asked for is out of reach.
        Interrupted: If the run was asked to stop.
    """
    find, importance = _finder(question)
    if text is not None:
        run_recipe(run, text, until="train")
    model = run.model_after("train")
    weights = prunable(model, question.include, question.exclude)
    with run.folder.locked():
        rows = list(_told(run, _scan(run, model, weights, question, find, importance), weights, question))
        table = Sensitivity(tuple(rows))
        figures = {
            "model": fingerprint(model.state_dict()),
            "part": _part(run),
            "metric": run.recipe.train.metric,
            "importance": question.importance,
            "pattern": question.pattern,
            "dense": rows[0].figures,
            "weights": _by_weight(table),
            "suggestion": _suggestion(table, question),
        }
        write_json(run.folder.path / SENSITIVITY, figures)
        write_text(run.folder.path / PICTURE, sensitivities({"sensitivity": figures}))
        add_to_report(run.folder.path, sensitivity=figures)
    return figures


def _finder(question: Question) -> tuple[Callable[..., Masks], Callable[..., Tensor]]:
    """Return what finds the masks of one weight, and its importance."""
    mistakes = Mistakes()
    importance = bind_rule(TABLES["importance"], Rule(rule=question.importance), "--importance", mistakes)
    kind = bind_rule(TABLES["pattern"], Rule(rule=question.pattern), "--pattern", mistakes)
    if importance is None or kind is None:
        raise RecipeError("inspect sensitivity", mistakes.found)
    pattern: Any = kind
    return partial(find_masks, importance=importance, pattern=pattern), importance


def _part(run: Run) -> str:
    """Return the part of the data that the scan measures on."""
    return "valid" if "valid" in run.data else "test"


def _scan(
    run: Run,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    question: Question,
    find: Callable[..., Masks],
    importance: Callable[..., Tensor],
) -> Iterator[Measured]:
    """Return the rows of the scan, measured with the recipe's loss and metric."""
    methods = build.methods(run.recipe.train, "train", Mistakes())
    judge = partial(evaluate, dataset=run.data[_part(run)], loss=methods.loss, metric=methods.metric)
    stats, names = None, needs(importance)
    if names:
        seed = mix(run.recipe.seed, "inspect", "calibration")
        batches = Batches(run.data["train"], batch_size=run.recipe.train.batch_size, seed=seed)
        samples = [[place(part, run.device) for part in batches(step)] for step in range(CALIBRATION)]
        pairs = [(inputs, targets) for inputs, targets in samples]
        stats = collect(model, pairs, names=names, weights=weights, loss=methods.loss)
    return scan_sensitivity(
        model,
        judge,
        weights=weights,
        sparsities=question.sparsities,
        find=find,
        stats=stats,
        path=run.folder.path / ROWS,
    )


def _told(
    run: Run, rows: Iterator[Measured], weights: Mapping[str, Tensor], question: Question
) -> Iterator[Measured]:
    """Tell every row as it is measured, and stop between two where that is asked for."""
    total = len(weights) * len(question.sparsities)
    for done, row in enumerate(rows):
        told = {"weight": row.weight, "sparsity": row.sparsity, **row.figures}
        run.tell({"event": "scan", "done": done, "of": total, **told})
        yield row
        if run.stop():
            raise Interrupted(f"stopped after {done} of {total} measurements")


def _by_weight(table: Sensitivity) -> dict[str, Any]:
    """Return the rows as columns, weight by weight."""
    found: dict[str, Any] = {}
    for row in table.rows[1:]:
        of = found.setdefault(row.weight, {"size": row.size, "sparsity": [], "removed": []})
        of["sparsity"].append(row.sparsity)
        of["removed"].append(row.removed)
        for key, value in row.figures.items():
            of.setdefault(key, []).append(value)
    return found


def _suggestion(table: Sensitivity, question: Question) -> dict[str, Any]:
    """Return the sparsities that are suggested, and what to expect of them."""
    if question.sparsity is not None:
        sparsities = table.allocate(sparsity=question.sparsity)
    else:
        bound = table.dense + RISE * abs(table.dense) if question.max_loss is None else question.max_loss
        sparsities = table.allocate(max_loss=bound)
    removed = sum(table.sizes[name] * s for name, s in sparsities.items())
    share = removed / sum(table.sizes.values())
    return {"sparsities": sparsities, "sparsity": share, "loss": table.predict(sparsities)}
