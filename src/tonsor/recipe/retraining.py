"""What a training after the dense one may do beside: learn from the dense model, measure its norms anew."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import call
from tonsor.prune import recalibrate_
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.context import Run
from tonsor.recipe.schema import Retraining, Training


def teacher(run: Run, section: Training) -> Callable[[Any], Tensor] | None:
    """Return the dense model's answers as a function of inputs, where the section distils.

    The model is the one that the train stage left, in eval mode; no graph is kept.

    Example:
        >>> from pathlib import Path
        >>> from tonsor.recipe.folder import RunFolder
        >>> from tonsor.recipe.schema import Recipe
        >>> run = Run(Recipe.model_validate({"name": "a", "model": {"build": "m:f"}, "data": {"load": "m:g"},
        ...     "train": {}}), RunFolder(Path("runs/a")))
        >>> teacher(run, Retraining()) is None
        True
    """
    if not isinstance(section, Retraining) or section.distill is None:
        return None
    model = run.model_after("train").eval()

    @torch.no_grad()
    def answers(inputs: Any) -> Tensor:
        outputs: Tensor = call(model, inputs)
        return outputs

    return answers


def recalibrate(run: Run, section: Training, label: str, model: nn.Module) -> None:
    """Measure the statistics of a model's batch norms anew, in place, where the section asks for it.

    The batches depend on the recipe's seed and the label alone, so that every worker, and a run that was
    stopped in between, comes to the same statistics.

    Args:
        run: The run.
        section: Says how many batches.
        label: Name of the training that is done.
        model: The trained model.
    """
    count = section.recalibrate if isinstance(section, Retraining) else 0
    if not count:
        return
    seed = mix(run.recipe.seed, label, "recalibrate")
    batches = Batches(run.data["train"], batch_size=section.batch_size, seed=seed)
    pairs = (batches(step) for step in range(count))
    # A last batch of one sample has no variance; such a batch is left out.
    placed = ((place(inputs, run.device), None) for inputs, targets in pairs if len(targets) > 1)
    if not recalibrate_(model, placed):
        text = f"{label}: the model has no batch norm with running statistics: `recalibrate` has no effect"
        run.tell({"event": "note", "text": text})
