"""Run a recipe: every stage that is not done yet, in order."""

import shutil
import time
from collections.abc import Callable, Sequence

import torch

from tonsor.recipe import stages
from tonsor.recipe.build import check_rules
from tonsor.recipe.context import TRAINING, Run
from tonsor.recipe.healing import heal
from tonsor.recipe.packing import pack
from tonsor.recipe.stages import Made
from tonsor.recipe.wire import remarks

STAGES: dict[str, Callable[[Run], Made]] = {
    "train": stages.train,
    "prune": stages.prune,
    "heal": heal,
    "finetune": stages.finetune,
    "shrink": stages.shrink,
    "pack": pack,
    "export": stages.export,
    "report": stages.report,
}


def run_recipe(run: Run, text: str, *, until: str = "report") -> None:
    """Run every stage that is not done.

    Killed at any moment and called again it goes on, and ends with the same weights, bit for bit, on
    the same machine with the same number of threads.

    Args:
        run: Recipe, folder and whom to tell.
        text: The recipe as written, kept in the folder.
        until: The last stage to run.

    Raises:
        RecipeError: If a rule of the recipe is wrong; nothing has been written.
        ValueError: If the folder belongs to another recipe, or a file in it is corrupt.
        Interrupted: If the run was asked to stop.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tonsor.recipe.folder import RunFolder
        >>> from tonsor.recipe.reporting import read_report
        >>> from tonsor.recipe.schema import Recipe
        >>> recipe = Recipe.model_validate({
        ...     "name": "a", "model": {"build": "tonsor.examples.models:linear"},
        ...     "data": {"load": "tonsor.examples.data:diabetes"},
        ...     "train": {"epochs": 2, "loss": "mse", "metric": "r2"}})
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> run_recipe(Run(recipe, RunFolder(folder)), "", until="train")
        >>> sorted(path.name for path in folder.iterdir())
        ['recipe.toml', 'settings.json', 'train']
        >>> run_recipe(Run(recipe, RunFolder(folder)), "")
        >>> sorted(read_report(folder)["models"])
        ['dense']
    """
    check_rules(run.recipe)
    if run.recipe.threads:
        torch.set_num_threads(run.recipe.threads)
    if run.crew.is_first:
        run.folder.claim(text, run.recipe.model_dump(mode="json"))
    run.crew.wait()
    asked = run.stages[: run.stages.index(until) + 1]
    if not run.crew.is_first:
        return _all_stages(run, asked)
    with run.folder.locked():
        return _all_stages(run, asked)


def _all_stages(run: Run, asked: Sequence[str]) -> None:
    """Run the stages that have no receipt, on all workers alike."""
    recipe = run.recipe
    trainings = filter(None, [recipe.train, *recipe.prune, recipe.finetune])
    for text in dict.fromkeys(text for training in trainings for text in remarks(training, run.crew.size)):
        run.tell({"event": "note", "text": text})
    for stage in asked:
        is_done = run.crew.agree(run.crew.is_first and run.folder.receipt(stage) is not None)[0]
        run.tell({"event": "done" if is_done else "begin", "stage": stage})
        if not is_done and (run.crew.is_first or stage in TRAINING):
            _one_stage(run, stage)
        run.crew.wait()
        if run.crew.is_first:
            _drop_checkpoints(run, stage)
        run.tell({"event": "end", "stage": stage})


def _one_stage(run: Run, stage: str) -> None:
    """Run a stage, write its receipt, and drop the checkpoints it needs no more."""
    started = time.time()
    if run.crew.is_first:
        run.folder.reset(stage)
    made = STAGES[stage](run)
    if not run.crew.is_first:
        return
    run.folder.finish(
        stage,
        inputs=made.inputs,
        outputs=made.outputs,
        started=started,
        seed=run.recipe.seed,
        workers=run.crew.size,
        settings=run.recipe.model_dump(mode="json")[stage],
        **made.facts,
    )


def _drop_checkpoints(run: Run, stage: str) -> None:
    """Remove what a stage that is done needs no more; it may have been killed before it came to that."""
    for folder in (run.folder.path / stage).glob("checkpoints*"):
        shutil.rmtree(folder)
