"""Find the masks: score, group, choose."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tonsor.prune.by_weight import magnitude
from tonsor.prune.patterns import Element
from tonsor.prune.protocol import Importance, Limited, Masks, Pattern, Scope, Stats
from tonsor.prune.scopes import across
from tonsor.prune.scores import Computed, score
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
    ready = prepare(weights, stats=stats, importance=importance, pattern=pattern, within=within)
    masks = ready.masks(scope, sparsity)
    _warn_of_collapse(masks, ready.before)
    return masks


@dataclass(frozen=True)
class Ready:
    """Hold what is scored and joined to units, and has only to be chosen from.

    Args:
        weights: Weights by name.
        units: Scores of the units; minus infinity where nothing of a unit is left.
        pattern: Joined the elements to units.
        before: Masks of before, or none.

    Example:
        >>> from tonsor.prune import local
        >>> ready = prepare({"w": torch.tensor([2.0, 1.0])})
        >>> ready.masks(local, 0.5)
        {'w': tensor([ True, False])}
    """

    weights: Mapping[str, Tensor]
    units: Mapping[str, Tensor]
    pattern: Pattern
    before: Mapping[str, Tensor]

    def masks(self, scope: Scope, sparsity: float) -> Masks:
        """Return the masks of a sparsity."""
        keep: Mapping[str, Tensor] = scope(self.units, sparsity)
        if isinstance(self.pattern, Limited):
            keep = self.pattern.limit(keep, self.units)
        found = self.pattern.expand(keep, self.weights)
        return {name: self._mask(found, name, weight) for name, weight in self.weights.items()}

    def _mask(self, found: Mapping[str, Tensor], name: str, weight: Tensor) -> Tensor:
        """Return the mask of a weight on its device; a weight without units stays as it was."""
        masks = [of[name].to(weight.device) for of in (found, self.before) if name in of]
        if len(masks) == 2:
            return masks[0] & masks[1]
        return masks[0] if masks else torch.ones_like(weight, dtype=torch.bool)


def prepare(
    weights: Mapping[str, Tensor],
    /,
    *,
    stats: Stats | None = None,
    importance: Importance = magnitude,
    pattern: Pattern | None = None,
    within: Mapping[str, Tensor] | None = None,
) -> Ready:
    """Score the weights and join them to units; the arguments are those of `find_masks`.

    Example:
        >>> ready = prepare({"w": torch.tensor([2.0, -1.0])})
        >>> dict(ready.units)
        {'w': tensor([2., 1.])}
    """
    _check_within(weights, within or {})
    pattern = Element() if pattern is None else pattern
    scores = score(weights, stats or {}, importance)
    if not within:
        return Ready(weights, pattern.reduce(scores), pattern, {})
    before = {name: mask.to(weights[name].device) for name, mask in within.items()}
    live = {name: before.get(name, w.new_ones((), dtype=torch.bool)) for name, w in weights.items()}
    units = pattern.reduce(Computed(weights, lambda name: scores[name] * live[name]))
    left = pattern.reduce(Computed(weights, lambda name: live[name].expand_as(weights[name]).float()))
    # 1 - 1/1 is 0 and 1 - 1/0 minus infinity: exact, and faster than a choice by `where`.
    alive = Computed(units, lambda name: units[name] + (1 - 1 / (left[name] > 0).float()))
    return Ready(weights, alive, pattern, before)


def _warn_of_collapse(masks: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Warn of weights of which nothing stays any more: no signal passes them, and accuracy is lost."""
    for name, mask in masks.items():
        if mask.numel() and not mask.count_nonzero() and (name not in before or before[name].any()):
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
