"""Shrink one model to many targets and see what each costs in accuracy: resumable, with a plot."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tonsor.files import read_json, write_text
from tonsor.report import front_plot, latency, size
from tonsor.shrink import Scores, Target, save, shrink_to
from tonsor.tensors import fingerprint

SHARES = tuple(Target(macs=share) for share in (0.7, 0.5, 0.35, 0.25, 0.125))


def pareto(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    evaluate: Callable[[nn.Module], float],
    folder: str | Path,
    /,
    *,
    targets: Iterable[Target] = SHARES,
    tune: Callable[[nn.Module], None] | None = None,
    scores: Scores | None = None,
) -> list[dict[str, Any]]:
    """Shrink copies of a model to each target, tune and measure them, and keep everything in a folder.

    For each target the folder gets what `tonsor.shrink.save` writes: the weights, and at last their plan with
    the row of figures. A target whose row is there is not done again, so that a sweep that was stopped goes
    on. `front.svg` shows all of them, with a line through those that no other one beats in both accuracy and
    time.

    Args:
        model: The trained model; it is left as it is.
        example: The arguments of one call; its batch is the one that is timed.
        evaluate: Gives the accuracy of a model; higher is better.
        folder: Where the sweep is kept.
        targets: As `shrink_to` takes them, one each: `{"macs": 0.5}`, `{"latency_ms": 2.0}`.
        tune: Trains a copy after the cut, in place.
        scores: As `shrink_to` takes them.

    Returns:
        A row for the dense model and for each target: `name`, `target`, `accuracy`, `latency_ms` (median of
        calls in turns with the dense model), `dense_ms`, `parameters` and `macs` (of one sample).

    Raises:
        ValueError: If the folder holds the sweep of a model with other weights, or a target is out of reach.

    Example:
        >>> import tempfile, torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> folder = tempfile.mkdtemp()
        >>> rows = pareto(model, torch.ones(2, 4), lambda m: 1.0, folder, targets=[{"params": 0.5}])
        >>> [(row["name"], row["parameters"]) for row in rows]
        [('dense', 58), ('params 0.5', 23)]
        >>> sorted(path.name for path in Path(folder).iterdir())
        ['dense.json', 'dense.safetensors', 'front.svg', 'params-0.5.json', 'params-0.5.safetensors']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = fingerprint(model.state_dict())
    rows = []
    for target in (Target(), *targets):
        name = " ".join(f"{key} {value:g}" for key, value in target.items()) or "dense"
        path = folder / f"{name.replace(' ', '-')}.json"
        if not path.exists():
            small = copy.deepcopy(model)
            plan = shrink_to(small, example, scores=scores, **target).shrunk.plan if target else None
            if tune is not None and target:
                tune(small)
            row = {"name": name, "target": dict(target), "weights": weights, "accuracy": evaluate(small)}
            row |= _figures(model, small, example)
            save(small, path.with_suffix(".safetensors"), plan=plan, about=row)
        rows.append(_row(path, weights))
    write_text(folder / "front.svg", front_plot(rows))
    return rows


def _row(path: Path, weights: str) -> dict[str, Any]:
    """Return the row of a target, of the same dense model."""
    row: dict[str, Any] = read_json(path)["about"]
    if row["weights"] != weights:
        raise ValueError(f"{path}: is the sweep of a model with other weights; choose another folder")
    return row


def _figures(model: nn.Module, small: nn.Module, example: Tensor | tuple[Any, ...]) -> dict[str, Any]:
    """Return size and time, the latter measured in turns with the dense model."""
    args: Sequence[Any] = (example,) if isinstance(example, Tensor) else example
    batch = len(next(x for x in args if isinstance(x, Tensor) and x.ndim))
    models = {"dense": model, "small": small}
    times = latency(models, example, batches=[batch], rounds=20)
    taken = {name: times[name][str(batch)]["median"] for name in models}
    counted = size(small, example)
    return {
        "latency_ms": taken["small"],
        "dense_ms": taken["dense"],
        "parameters": counted["parameters"],
        "macs": counted["macs"],
    }
