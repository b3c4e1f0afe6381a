"""What one training needs, before it begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.prune import Masking
from tonsor.recipe.binding import tunable
from tonsor.recipe.build import Methods
from tonsor.recipe.schema import Training


@dataclass(frozen=True)
class Job:
    """Say what one training needs.

    Args:
        label: Its name, as "train" or "prune.0"; it decides the order of the data.
        section: The section of the recipe.
        methods: The bound rules of that section.
        model: The model, changed in place.
        data: Data sets by name; "valid" is optional.
        masks: Weights that stay zero.
        pruner: Moves masks as the training goes on.
        keep: Where the weights are kept as they are after a step, by step.
        teacher: Gives the dense model's outputs for the inputs of a batch, where the section distils.

    Example:
        >>> job = Job("train", Training(), None, nn.Linear(1, 1), {})
        >>> job.masks
        {}
    """

    label: str
    section: Training
    methods: Methods
    model: nn.Module
    data: Mapping[str, Dataset[Any]]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    pruner: Masking | None = None
    keep: Mapping[int, Path] = field(default_factory=dict)
    teacher: Callable[[Any], Tensor] | None = None


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Return the fraction of the masked weights that is removed.

    Example:
        >>> import torch
        >>> sparsity({"w": torch.tensor([True, False, False, False])})
        0.75
    """
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total if total else 0.0


def until(schedule: Any, steps: int) -> Any:
    """Return a schedule that ends at the last step, unless the recipe said otherwise.

    Example:
        >>> from tonsor.schedule import linear
        >>> until(partial(linear, initial=1.0, final=0.0), 4)(2)
        0.5
    """
    needs_stop = "stop" in tunable(schedule.func) and "stop" not in schedule.keywords
    return partial(schedule, stop=max(steps, schedule.keywords.get("start", 0))) if needs_stop else schedule
