"""Share a sparsity out over the weights, by how much the loss rises with each."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tonsor.prune.knapsack import least_cost, most_gain

Array: TypeAlias = NDArray[np.float64]
Curve: TypeAlias = Sequence[tuple[float, float]]  # sparsity and rise of the loss, ascending from (0, 0)
STEP = 0.01  # distance of the sparsities that are tried between the measured ones


def most_removed(curves: Mapping[str, Curve], sizes: Mapping[str, int], budget: float, /) -> dict[str, float]:
    r"""Remove as much as a budget allows: :math:`\max \sum n_l s_l` where :math:`\sum \Delta_l(s_l) \le b`.

    The rises are interpolated linearly, a dip counts as level (see `risen`), and they are added up as if
    the weights knew nothing of one another. The choice is a knapsack, solved by dynamic programming, so
    the curves may bend as they like.

    Args:
        curves: By weight, pairs of sparsity and rise of the loss, ascending from `(0, 0)`.
        sizes: Elements of each weight.
        budget: By how much the loss may rise.

    Returns:
        A sparsity for each weight, none above the last one of its curve.

    Raises:
        ValueError: If the budget is below 0.

    Example:
        >>> curves = {"a": [(0.0, 0.0), (0.9, 0.9)], "b": [(0.0, 0.0), (0.9, 0.09)]}
        >>> most_removed(curves, {"a": 10, "b": 10}, 0.191)   # the cheap one to its end, then the other
        {'a': 0.1, 'b': 0.9}
    """
    tried, rises, gains = _options(curves, sizes)
    places = most_gain(rises, gains, budget)
    if places is None:
        raise ValueError(f"prune.most_removed: the loss must be allowed to rise by 0 or more; got {budget:g}")
    return {name: float(s[place]) for name, s, place in zip(curves, tried, places, strict=True)}


def least_loss(curves: Mapping[str, Curve], sizes: Mapping[str, int], sparsity: float, /) -> dict[str, float]:
    r"""Remove a share at the least rise: :math:`\min \sum \Delta_l(s_l)` where :math:`\sum n_l s_l = s n`.

    The rises are read as `most_removed` reads them.

    Args:
        curves: By weight, pairs of sparsity and rise of the loss, ascending from `(0, 0)`.
        sizes: Elements of each weight.
        sparsity: Fraction of all elements removed, in [0, 1).

    Returns:
        A sparsity for each weight, none above the last one of its curve.

    Raises:
        ValueError: If the curves do not reach so far.

    Example:
        >>> curves = {"a": [(0.0, 0.0), (0.9, 0.9)], "b": [(0.0, 0.0), (0.9, 0.09)]}
        >>> least_loss(curves, {"a": 10, "b": 10}, 0.5)
        {'a': 0.1, 'b': 0.9}
    """
    if sparsity == 0:
        return dict.fromkeys(curves, 0.0)
    tried, rises, gains = _options(curves, sizes)
    target = sparsity * sum(sizes[name] for name in curves)
    places = least_cost(rises, gains, target) if 0 < sparsity < 1 else None
    if places is None:
        reach = sum(gain.max() for gain in gains) / max(1, sum(sizes[name] for name in curves))
        raise ValueError(
            f"prune.least_loss: the curves reach a sparsity of {reach:.4g}; got {sparsity};"
            " ask for less, or measure higher sparsities"
        )
    found = {name: float(s[place]) for name, s, place in zip(curves, tried, places, strict=True)}
    return _trimmed(found, curves, sizes, target)


def same_rise(curves: Mapping[str, Curve], sizes: Mapping[str, int], sparsity: float, /) -> dict[str, float]:
    r"""Prune every weight until it raises the loss alike: :math:`\Delta_l(s_l) = \tau` for every weight.

    A dip of a curve counts as level. Past the last sparsity of every curve, what is left of each
    weight shrinks by the same factor. A higher sparsity gives no weight a lower one.

    Args:
        curves: By weight, pairs of sparsity and rise of the loss, ascending from `(0, 0)`.
        sizes: Elements of each weight.
        sparsity: Fraction of all elements removed, in [0, 1).

    Returns:
        A sparsity for each weight, in [0, 1).

    Example:
        >>> curves = {"a": [(0.0, 0.0), (0.8, 0.8)], "b": [(0.0, 0.0), (0.8, 0.2)]}
        >>> {name: round(s, 3) for name, s in same_rise(curves, {"a": 10, "b": 10}, 0.5).items()}
        {'a': 0.2, 'b': 0.8}
    """
    if sparsity == 0:
        return dict.fromkeys(curves, 0.0)
    rising = [_rising(curve) for curve in curves.values()]
    shares = np.array([sizes[name] for name in curves]) / max(1, sum(sizes[name] for name in curves))
    ends = np.array([tried[-1] for tried, _ in rising])
    top = max((rise[-1] for _, rise in rising), default=0.0)

    def at(level: float) -> Array:
        """Return the sparsities at a level: up to 1 along the curves, from 1 to 2 beyond their ends."""
        reached = np.array([np.interp(min(level, 1.0) * top, rise, tried) for tried, rise in rising])
        return np.where(level > 1, ends + (level - 1) * (1 - ends), reached)

    low, high = 0.0, 2.0
    for _ in range(100):  # halvings; a float has no more
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) @ shares < sparsity else (low, middle)
    return dict(zip(curves, at(high).tolist(), strict=True))


def risen(curve: Curve, sparsity: float, /) -> float:
    """Return how much the loss rises at a sparsity, interpolated; beyond the curve its last value.

    Where a curve falls it counts as level: that a model gets better by losing more is noise more often
    than not, and a bound should not rest on it.

    Args:
        curve: Pairs of sparsity and rise of the loss, ascending from `(0, 0)`.
        sparsity: In [0, 1).

    Example:
        >>> risen([(0.0, 0.0), (0.5, 1.0)], 0.25)
        0.5
    """
    return float(np.interp(sparsity, *_level(curve)))


def _options(
    curves: Mapping[str, Curve], sizes: Mapping[str, int]
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return for each weight the sparsities to choose from, the rise of each and the elements it removes."""
    tried = []
    for curve in curves.values():
        measured = np.array([sparsity for sparsity, _ in curve])
        tried.append(np.union1d(measured, np.arange(STEP, measured[-1], STEP).round(9)))
    pairs = list(zip(curves.items(), tried, strict=True))
    rises = [np.array([risen(curve, sparsity) for sparsity in at]) for (_, curve), at in pairs]
    return tried, rises, [at * sizes[name] for (name, _), at in pairs]


def _level(curve: Curve) -> tuple[Array, Array]:
    """Return the sparsities and rises of a curve that falls nowhere."""
    tried, rise = np.array(curve, dtype=np.float64).T
    return tried, np.maximum.accumulate(rise)


def _rising(curve: Curve) -> tuple[Array, Array]:
    """Return a curve that rises everywhere, so that it can be read backwards."""
    tried, rise = _level(curve)
    return tried, rise + 1e-6 * max(1.0, rise[-1]) * tried


def _trimmed(
    found: dict[str, float], curves: Mapping[str, Curve], sizes: Mapping[str, int], target: float
) -> dict[str, float]:
    """Return the sparsities lowered where it helps most, so that just the target is removed."""
    excess = sum(sizes[name] * s for name, s in found.items()) - target

    def change(name: str) -> float:
        """Return how much the loss rises if the weight gives back all it can of what is too much."""
        lowered = max(0.0, found[name] - excess / max(1, sizes[name]))
        return risen(curves[name], lowered) - risen(curves[name], found[name])

    enough = sorted(found, key=lambda name: (sizes[name] * found[name] < excess, change(name)))
    for name in enough:
        given = min(excess, sizes[name] * found[name])
        found[name] -= given / max(1, sizes[name])
        excess -= given
    return found
