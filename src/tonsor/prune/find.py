"""Find the masks: score, group, choose."""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tonsor.prune.by_weight import magnitude
from tonsor.prune.patterns import Element
from tonsor.prune.protocol import Importance, Limited, Masks, Pattern, Scope, Stats
from tonsor.prune.scopes import across
from tonsor.prune.statistics import NAME, STATISTICS, arguments
from tonsor.spelling import unknown


@torch.no_grad()
def find_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    /,
    *,
    stats: Stats | None = None,
    importance: Importance = magnitude,
    pattern: Pattern | None = None,
    scope: Scope = across,
    within: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Find which weights stay: score every element, join them to units, let the units compete.

    Nothing is changed; `apply_masks_` writes the zeros. What `within` has removed stays removed and
    counts towards the sparsity, so steps of rising sparsity end where one step would, if the scores stay.

    Args:
        weights: Weights by name, shape `(out, in, ...)`.
        sparsity: Fraction of the units removed, in [0, 1), with what was removed before.
        stats: Statistics by weight and name, as `collect` gives them; more than is needed is welcome.
        importance: Scores the elements; the highest stay.
        pattern: Joins the elements to units; single elements if not given.
        scope: Says which units compete, and removes the lowest.
        within: Masks of before, of all or some of the weights.

    Returns:
        Boolean masks by name, shaped and placed like the weights, true where the weight stays.

    Raises:
        ValueError: If the sparsity is out of its range, a statistic is missing, scores are not finite, or
            `within` does not fit the weights. A weight of which nothing stays is warned of.

    Example:
        >>> w = {"w": torch.tensor([4.0, 1.0, 3.0, 2.0])}
        >>> find_masks(w, 0.75)
        {'w': tensor([ True, False, False, False])}
        >>> one_by_one = None
        >>> for sparsity in (0.25, 0.5, 0.75):   # the least important goes first
        ...     one_by_one = find_masks(w, sparsity, within=one_by_one)
        >>> one_by_one
        {'w': tensor([ True, False, False, False])}

    References:
        Han et al., 2015, "Learning both Weights and Connections", https://arxiv.org/abs/1506.02626
    """
    _check_within(weights, within or {})
    before = {name: _mask(within, name, weight) for name, weight in weights.items()} if within else {}
    pattern = Element() if pattern is None else pattern
    scores = {name: _scores(name, weight, stats or {}, importance) for name, weight in weights.items()}
    _check_finite(scores, importance)
    for name, mask in before.items():
        scores[name] = scores[name].where(mask, 0)
    units = pattern.reduce(scores)
    if before:
        left = pattern.reduce({name: mask.float() for name, mask in before.items()})
        units = {name: unit.where(left[name] > 0, -torch.inf) for name, unit in units.items()}
    masks = pattern.expand(_limited(pattern, scope(units, sparsity), units), weights)
    found = {name: _mask(masks, name, w) & _mask(before, name, w) for name, w in weights.items()}
    _warn_of_collapse(found, before)
    return found


def _limited(pattern: Pattern, keep: dict[str, Tensor], units: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return what was chosen, within the limits of a pattern that has some."""
    return pattern.limit(keep, units) if isinstance(pattern, Limited) else keep


def _mask(masks: Mapping[str, Tensor], name: str, weight: Tensor) -> Tensor:
    """Return the mask of a weight on its device; a weight without one stays whole."""
    return masks[name].to(weight.device) if name in masks else torch.ones_like(weight, dtype=torch.bool)


def _scores(name: str, weight: Tensor, stats: Stats, importance: Importance) -> Tensor:
    """Return the scores of one weight, called with the statistics that the importance names."""
    values: list[Any] = [
        name if statistic == NAME else _statistic(name, statistic, stats, importance)
        for statistic in arguments(importance)
    ]
    scores = importance(weight.detach(), *values)
    if scores.shape != weight.shape:
        raise ValueError(
            f"prune.find_masks: importance '{_title(importance)}' must score every element of '{name}';"
            f" expected shape {tuple(weight.shape)}, got {tuple(scores.shape)}"
        )
    return scores


def _statistic(name: str, statistic: str, stats: Stats, importance: Importance) -> Tensor:
    """Return one statistic of one weight, or say how to get it."""
    found = stats.get(name, {})
    if statistic in found:
        return found[statistic]
    where = f"prune.find_masks: importance '{_title(importance)}' needs '{statistic}' of weight '{name}'"
    if stats and name not in stats:
        raise ValueError(f"{where}; in stats: {unknown('weight', name, stats)}")
    if statistic not in STATISTICS:
        raise ValueError(f"{where}; {unknown('statistic', statistic, [*STATISTICS, NAME])}")
    raise ValueError(f"{where}; give stats=collect(model, batches, names=['{statistic}'], ...)")


def _title(importance: Importance) -> str:
    """Return the name of an importance, seen through `functools.partial`."""
    inner = importance.func if isinstance(importance, partial) else importance
    return getattr(inner, "__name__", type(inner).__name__)


def _check_finite(scores: Mapping[str, Tensor], importance: Importance) -> None:
    """Refuse scores that are infinite or not numbers; the device is waited for once."""
    if not scores:
        return
    sound = [score.isfinite().all() for score in scores.values()]
    first = sound[0].device
    for name, is_sound in zip(scores, torch.stack([s.to(first) for s in sound]).tolist(), strict=True):
        if not is_sound:
            raise ValueError(
                f"prune.find_masks: importance '{_title(importance)}' gave weight '{name}' a score that is"
                " infinite or not a number; look at the weight and its statistics"
            )


def _warn_of_collapse(masks: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Warn of weights of which nothing stays any more: no signal passes them, and accuracy is lost."""
    for name, mask in masks.items():
        if mask.numel() and not mask.any() and (name not in before or before[name].any()):
            warnings.warn(
                f"prune.find_masks: nothing of '{name}' stays, so no signal passes through it; let its units "
                "compete among themselves (scope 'local'), or ask for less",
                stacklevel=3,
            )


def _check_within(weights: Mapping[str, Tensor], within: Mapping[str, Tensor]) -> None:
    """Refuse masks of other weights, shapes or types."""
    for name, mask in within.items():
        if name not in weights:
            raise ValueError(f"prune.find_masks: in within: {unknown('weight', name, weights)}")
        if mask.dtype != torch.bool or mask.shape != weights[name].shape:
            raise ValueError(
                f"prune.find_masks: in within, the mask of '{name}' must be boolean of shape"
                f" {tuple(weights[name].shape)}; got {mask.dtype} of shape {tuple(mask.shape)}"
            )
