"""Try bound rules on a weight of 2x2, so that a value out of range is told before anything is trained.

A rule that remembers is copied first: what a run starts with knows nothing of the trial.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tonsor.compress import Comm
from tonsor.prune import find_masks, needs
from tonsor.recipe.binding import Mistakes, bind_rule
from tonsor.recipe.schema import Export, Pack
from tonsor.recipe.tables import TABLES

MANY = 1 << 12  # channels, so that as many groups as a weight may have can be tried

# Sizes of the statistics that are matrices, no values for each weight.
MATRICES: dict[str, Callable[[Tensor], int]] = {
    "input_gram": lambda weight: weight.shape[1],
    "inverse_fisher": Tensor.numel,
}


def attempt(trial: Callable[[], Any], place: str, mistakes: Mistakes) -> None:
    """Run a trial and note the ValueError it may raise, at the rule's place in the recipe.

    Example:
        >>> mistakes = Mistakes(); attempt(lambda: int("x"), "train.clip", mistakes); len(mistakes.found)
        1
    """
    try:
        trial()
    except ValueError as error:
        mistakes.add(place, str(error))


def clipper(rule: Callable[..., Any]) -> None:
    """Clip the gradient of a small weight.

    Example:
        >>> from functools import partial
        >>> from tonsor.clip import value
        >>> clipper(partial(value, clip_value=-1.0))
        Traceback (most recent call last):
        ValueError: clip.value: clip_value must be above 0; got -1.0
    """
    weight = torch.ones(2, 2, requires_grad=True)
    weight.grad = torch.ones(2, 2)
    copy.deepcopy(rule)([weight])


def constraint(rule: Callable[..., Any]) -> None:
    """Constrain a small weight.

    Example:
        >>> from functools import partial
        >>> from tonsor.constrain import value
        >>> constraint(partial(value, clip_value=1.0))
    """
    copy.deepcopy(rule)([torch.ones(2, 2, requires_grad=True)])


def compressor(rule: Callable[..., Any]) -> None:
    """Average a small gradient with nobody.

    Example:
        >>> from tonsor.compress import TopK
        >>> compressor(TopK(density=0.5))
    """
    copy.deepcopy(rule)({"weight": torch.ones(2, 2)}, Comm())


def distillation(rule: Callable[..., Any]) -> None:
    """Blend a small loss.

    Example:
        >>> from functools import partial
        >>> from tonsor.prune import same_outputs
        >>> distillation(partial(same_outputs, weight=2.0))
        Traceback (most recent call last):
        ValueError: prune.same_outputs: weight is the share of the teacher and must lie in [0, 1]; got 2.0
    """
    rule(torch.zeros(()), torch.ones(2, 2), torch.ones(2, 2))


def finder(importance: Callable[..., Any], scope: Callable[..., Any], sparsity: float) -> None:
    """Find masks of a small weight.

    Example:
        >>> from tonsor.prune import magnitude, n_of_m
        >>> finder(magnitude, n_of_m, 0.9)
        Traceback (most recent call last):
        ValueError: ...
    """
    named = _named(scope)
    names = named or ["first", "weight", "last"]  # a scope may spare the first and the last
    sizes = [2 if name in ("first", "last") else 16 for name in names]
    weights = {
        name: torch.arange(1.0, 2 * size + 1).view(2, size) for name, size in zip(names, sizes, strict=True)
    }
    stats = {
        name: {statistic: _example(statistic, weight) for statistic in needs(importance)}
        for name, weight in weights.items()
    }
    sparsity = 0.0 if named else sparsity
    with warnings.catch_warnings(action="ignore"):  # of so small a weight nothing may stay
        find_masks(weights, sparsity, stats=stats, importance=importance, scope=scope)


def _example(statistic: str, weight: Tensor) -> Tensor:
    """Return a sound value of a statistic of a weight."""
    size = MATRICES.get(statistic)
    return torch.ones_like(weight) if size is None else torch.eye(size(weight)).unsqueeze(0)


def _named(scope: Callable[..., Any]) -> list[str]:
    """Return the names of weights that a scope has settings for, if it goes by names."""
    tables = [value for value in getattr(scope, "keywords", {}).values() if isinstance(value, Mapping)]
    return [name for table in tables for name in table]


def packing(section: Pack, mistakes: Mistakes) -> None:
    """Bind and try the rules of a packing."""
    if "bits" in section.sharing.settings:
        mistakes.add(
            "pack.sharing.bits", "give the bits as a key of [pack]; what a sharing takes beside is here"
        )
    for kind, named in (("sharing", section.sharing), ("distill", section.distill)):
        bound = bind_rule(TABLES[kind], named, f"pack.{kind}", mistakes) if named is not None else None
        if bound is not None and kind == "sharing":
            attempt(partial(bound, torch.ones(MANY, 1)), "pack.sharing", mistakes)
        elif bound is not None:
            attempt(partial(distillation, bound), "pack.distill", mistakes)


def exporting(section: Export, mistakes: Mistakes) -> None:
    """Bind the formats, and note where two would write one file."""
    names = [named.rule for named in section.formats]
    for number, named in enumerate(section.formats):
        place = f"export.formats.{number}"
        if "calibration" in named.settings:
            mistakes.add(place, "calibration is a key of [export]: a number of batches; leave it out here")
        elif named.rule in names[:number]:
            mistakes.add(place, f"'{named.rule}' is there already, and both have one file; keep one of them")
        else:
            bind_rule(TABLES["export"], named, place, mistakes)
