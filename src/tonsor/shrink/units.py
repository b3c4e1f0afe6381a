"""Scores of units: those of their slices joined, and made comparable from group to group."""

from collections.abc import Callable, Mapping
from math import sqrt

import torch
from torch import Tensor

from tonsor.shrink.collect import Group
from tonsor.spelling import unknown

REDUCTIONS = ("sum", "mean", "max", "l2", "first")


def check_scoring(reduction: str, normalise: str) -> None:
    """Refuse names that are not known.

    Example:
        >>> check_scoring("sum", "meen")
        Traceback (most recent call last):
        ValueError: shrink.ChannelGroups: unknown normalise 'meen'; did you mean 'mean'? Known: ...
    """
    for kind, name, known in (("reduction", reduction, REDUCTIONS), ("normalise", normalise, NORMALISERS)):
        if name not in known:
            raise ValueError(f"shrink.ChannelGroups: {unknown(kind, name, known)}")


def unit_scores(group: Group, scores: Mapping[str, Tensor], reduction: str) -> Tensor | None:
    """Return one score for each unit, from the slices whose parameters were scored; `None` without any.

    Args:
        group: The group.
        scores: Scores by parameter name, shaped like the parameters.
        reduction: How a unit's elements become one number: "sum", "mean", "max", "l2" (root of the sum of
            squares), or "first" (the sum over the first slice alone, mostly the producer's row).

    Example:
        >>> from tonsor.shrink import Slice
        >>> rows = Slice("w", 0, "producer", torch.tensor([[0], [1]]))
        >>> scores = {"w": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}
        >>> unit_scores(Group("w", 2, (rows,), 2, "", torch.tensor([1, 2])), scores, "l2")
        tensor([5., 1.])
    """
    parts = [part for part in group.slices if part.parameter in scores]
    if not parts:
        return None
    device = scores[parts[0].parameter].device
    totals, elements = [], 0
    for part in parts[:1] if reduction == "first" else parts:
        score = scores[part.parameter]
        line = _line(score, part.dim, reduction)[part.index.to(score.device)]
        totals.append(_joined(line, reduction).to(device))
        elements += part.index.shape[1] * (score.numel() // max(1, score.shape[part.dim]))
    total = _joined(torch.stack(totals, 1), reduction)
    if reduction == "mean":
        return total / elements
    return total.sqrt() if reduction == "l2" else total


def comparable(units: Mapping[str, Tensor], normalise: str) -> dict[str, Tensor]:
    """Return the scores of each group in units of its own, so that groups can compete.

    The order inside a group stays. What scores exactly 0, as what an earlier pass removed does, counts for
    nothing in means and deviations, and still scores 0 where no score is negative.

    Args:
        units: Scores by group.
        normalise: "none"; "mean" or "max" divides by that of the magnitudes; "gaussian" takes the distance
            from the mean in standard deviations, all raised by one number that makes them positive.

    Example:
        >>> units = {"thin": torch.tensor([1.0, 3.0]), "thick": torch.tensor([10.0, 30.0])}
        >>> comparable(units, "mean")
        {'thin': tensor([0.5000, 1.5000]), 'thick': tensor([0.5000, 1.5000])}
        >>> comparable(units, "gaussian")["thin"]
        tensor([0.4142, 2.4142])
    """
    raised = sqrt(max((len(unit) for unit in units.values()), default=0))
    return {name: NORMALISERS[normalise](unit, raised) for name, unit in units.items()}


def _line(score: Tensor, dim: int, reduction: str) -> Tensor:
    """Return the sum, the sum of squares or the largest at each place of a dimension; float32 at least."""
    wide = torch.promote_types(score.dtype, torch.float32)
    rest = [other for other in range(score.ndim) if other != dim]
    if reduction == "l2":
        return (
            torch.linalg.vector_norm(score, 2, rest, dtype=wide).square() if rest else score.to(wide).square()
        )
    if reduction == "max":
        return (score.amax(rest) if rest else score).to(wide)
    return score.sum(rest, dtype=wide) if rest else score.to(wide)


def _joined(rows: Tensor, reduction: str) -> Tensor:
    """Return the sum of each row, or its largest."""
    return rows.amax(1) if reduction == "max" else rows.sum(1)


def _by_mean(unit: Tensor, raised: float) -> Tensor:
    """Divide by the mean magnitude of what is not zero."""
    mean = unit.abs().sum() / unit.count_nonzero().clamp(min=1)
    return unit / mean.where(mean > 0, 1)


def _by_max(unit: Tensor, raised: float) -> Tensor:
    """Divide by the largest magnitude."""
    most = unit.abs().amax() if len(unit) else unit.sum()
    return unit / most.where(most > 0, 1)


def _by_deviation(unit: Tensor, raised: float) -> Tensor:
    """Count in standard deviations from the mean; no score of n lies further below than the root of n - 1."""
    if not len(unit):
        return unit
    here = unit != 0
    count = here.sum().clamp(min=1)
    mean = unit.sum() / count
    deviation = ((unit - mean).square() * here).sum().div(count).sqrt()
    distance = (unit - mean) / deviation.where(deviation > 0, 1)
    return (distance + raised).where(here | (unit.amin() < 0), 0)


NORMALISERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda unit, raised: unit,
    "mean": _by_mean,
    "max": _by_max,
    "gaussian": _by_deviation,
}
