"""Fit the dense model of a run to a budget: what `tonsor fit` does."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from tonsor.files import write_json
from tonsor.recipe import build
from tonsor.recipe.batches import Batches
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.context import Run
from tonsor.recipe.evaluate import evaluate
from tonsor.recipe.fit import Fit
from tonsor.recipe.fitting import Fitted, fit_budget
from tonsor.recipe.fitting_how import How, divergence, squared_distance
from tonsor.recipe.fitting_limits import Budget, Limits, read_bytes
from tonsor.recipe.fitting_rows import SUMMARY
from tonsor.recipe.job import Job
from tonsor.recipe.pruning import calibration
from tonsor.recipe.retraining import teacher
from tonsor.recipe.run import run_recipe
from tonsor.recipe.schema import Heal, Retraining
from tonsor.tensors import fingerprint

FOLDER = "fit"
SHARES = (1.0, 0.5, 0.25)
SHARES_IN_TIME = (1.0, 0.7, 0.5, 0.35, 0.25, 0.125, 0.06)  # where only time is limited, one candidate each
SOFT = {"rule": "soft_targets", "temperature": 3.0, "weight": 0.8}


@dataclass(frozen=True)
class Ask:
    """Say what the command was asked for.

    Args:
        limits: As `fit_budget` takes them.
        batch: Samples of a call that is timed.
        tune: Epochs in which the pick is trained, its zeros held, with the recipe's loss and optimizer and
            the dense model's answers; 0 for none.
        candidates: At most.

    Example:
        >>> Ask({"max_fall": 0.5}).batch
        1
    """

    limits: Limits
    batch: int = 1
    tune: int = 0
    candidates: int = 32


def fit_run(run: Run, text: str | None, ask: Ask) -> Fitted:
    """Search for the best small model of a run within a budget, on data it was not trained on.

    The train stage is run first where it is not done. Everything is kept in the folder `fit` of the run.

    Args:
        run: The run.
        text: The recipe as written, if the train stage may be run; else None.
        ask: What is asked for.

    Returns:
        The pick, as a model and a packed file, and all figures.

    Raises:
        ValueError: As `fit_budget`.
        Interrupted: If the run was asked to stop; it goes on from there.
    """
    if text is not None:
        run_recipe(run, text, until="train")
    model = run.model_after("train")
    methods = build.methods(run.recipe.train, "train", Mistakes())
    is_classifier = run.recipe.train.loss == "cross_entropy"
    judged = partial(
        evaluate, dataset=run.data[part_of(run)], loss=methods.loss, metric=methods.metric
    )  # gives loss and metric
    how = How(
        apart=divergence if is_classifier else squared_distance,
        batch=ask.batch,
        most=ask.candidates,
        shares=SHARES_IN_TIME if set(ask.limits) == {"latency_ms"} else SHARES,
        about={"model": run.recipe.model.model_dump()},
        tune=_tuner(run, ask.tune, is_classifier) if ask.tune else None,
        tuned=f"tuned-{ask.tune}",
        tell=run.tell,
        stop=run.stop,
    )
    with run.folder.locked():
        fitted = fit_budget(
            model,
            run.example(),
            lambda small: judged(small)["accuracy"],
            _calibration(run),
            run.folder.path / FOLDER,
            how=how,
            **ask.limits,
        )
    if part_of(run) == "test":
        return fitted
    small, whole = (
        evaluate(m, run.data["test"], loss=methods.loss, metric=methods.metric)["accuracy"]
        for m in (fitted.model, model)
    )
    figures = {**fitted.figures, "test": {"pick": small, "dense": whole}}
    write_json(fitted.path.with_name(SUMMARY), figures)
    fall = f"{small:.4f}, dense {whole:.4f} ({100 * (small - whole):+.2f})"
    told = f"chosen on the {part_of(run)} data; on the test data: {fall}"
    return replace(fitted, figures=figures, why=[*fitted.why, told])


def _calibration(run: Run) -> list[tuple[Any, Any]]:
    """Return batches of training inputs, none of them twice."""
    most = Heal()
    whole = Batches(run.data["train"], batch_size=most.batch_size, seed=0)
    section = Heal(calibration=min(most.calibration, len(whole)), batch_size=most.batch_size)
    return calibration(run, run.data, section, FOLDER)


def limits_of(max_bytes: str | None, latency_ms: float | None, max_fall: float | None) -> Limits:
    """Return the limits that the command was given.

    Raises:
        ValueError: If there is none, or a size cannot be read.

    Example:
        >>> limits_of("40k", None, 0.5)
        {'max_bytes': 40000, 'max_fall': 0.5}
    """
    limits = Limits()
    if max_bytes is not None:
        limits["max_bytes"] = read_bytes(max_bytes)
    if latency_ms is not None:
        limits["latency_ms"] = latency_ms
    if max_fall is not None:
        limits["max_fall"] = max_fall
    if not limits:
        raise ValueError("give a budget: --bytes 40k, --latency-ms 2, --max-loss 0.5, or several of them")
    Budget(**limits)
    return limits


def part_of(run: Run) -> str:
    """Return the part of the data that candidates are judged on."""
    return "valid" if "valid" in run.data else "test"


def _tuner(run: Run, epochs: int, is_classifier: bool) -> Callable[[nn.Module, Mapping[str, Tensor]], None]:
    """Return what trains a candidate as the train stage did, at half the rate, and by the dense answers."""
    given: dict[str, Any] = run.recipe.train.model_dump(exclude={"compress"})
    given |= {
        "epochs": epochs,
        "lr_schedule": {"rule": "cosine", "initial": 0.5},
        "distill": SOFT if is_classifier else {"rule": "same_outputs"},
    }
    section = Retraining.model_validate(given)

    def tune(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Train with the masks held."""
        methods = build.methods(section, FOLDER, Mistakes())
        job = Job("tune", section, methods, model, run.data, masks=masks, teacher=teacher(run, section))
        # A training that was stopped goes on; one of another candidate has another folder.
        folder = run.folder.file(FOLDER, f"checkpoints-{fingerprint(model.state_dict())[:16]}")
        Fit(run, job, folder).run()
        shutil.rmtree(folder, ignore_errors=True)

    return tune
