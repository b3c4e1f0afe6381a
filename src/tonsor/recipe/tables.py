"""Every kind of rule a recipe may name, with its table."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from tonsor import clip, compress, constrain, export, pack, prune
from tonsor.recipe.losses import LOSSES, METRICS
from tonsor.schedule import SCHEDULES

COUPLED = "channel_groups"  # the pattern that is read off the model itself, by the shrink room

# The tables of the parts that `clip = { rule = "Clip", measure = ..., threshold = ..., action = ... }` joins.
PARTS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "measure": clip.MEASURES,
    "threshold": clip.THRESHOLDS,
    "action": clip.ACTIONS,
}

# Where a rule inside another one is looked up, if not in the table of that one: by its key.
INSIDE: dict[str, Mapping[str, Callable[..., Any]]] = {**PARTS, "sparsity": SCHEDULES}

# Every kind of rule a recipe may name, with its table; what `tonsor list` shows.
TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "optimizer": {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    },
    "schedule": SCHEDULES,
    "clip": {**clip.RULES, "Clip": clip.Clip},
    **PARTS,
    "constrain": constrain.RULES,
    "compress": {**compress.RULES, **compress.WRAPPERS, "Auto": compress.Auto},
    "importance": prune.IMPORTANCES,
    "pattern": prune.PATTERNS,
    "scope": prune.SCOPES,
    "budget": prune.COSTS,
    "regrow": prune.REGROWS,
    "distill": prune.DISTILLATIONS,
    "loss": LOSSES,
    "metric": METRICS,
    "sharing": pack.SHARINGS,
    "export": export.FORMATS,
}
