"""Choose one option for each of several things, by dynamic programming: the multiple-choice knapsack."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
BINS = 10_000  # steps a budget or a target is counted in


def most_gain(costs: Sequence[Array], gains: Sequence[Array], budget: float, /) -> list[int] | None:
    r"""Choose one option of each thing so that the gain is largest and the cost within the budget.

    Costs are rounded up to a ten-thousandth of what the budget leaves above the cheapest choice, so that
    the budget holds; what that gives away is then spent on the largest gains that still fit.

    Args:
        costs: For each thing the cost of every option; a saving is negative.
        gains: For each thing the gain of every option.
        budget: What the costs may come to together.

    Returns:
        The place of the chosen option for each thing, or None where even the cheapest choice costs more.

    Example:
        >>> costs, gains = np.array([0.0, 2.0]), np.array([0.0, 1.0])
        >>> most_gain([costs, costs], [gains, 3 * gains], 2.5)
        [0, 1]

    References:
        Kellerer, Pferschy and Pisinger, 2004, "Knapsack Problems", chapter 11,
        https://doi.org/10.1007/978-3-540-24777-7
    """
    left = budget - sum(cost.min() for cost in costs)
    if left < 0:
        return None
    bins = BINS if left > 0 else 0
    best, chosen, steps = np.zeros(bins + 1), [], []
    for cost, gain in zip(costs, gains, strict=True):
        over = cost - cost.min()
        share = np.minimum(over / left, 2.0) if left > 0 else (over > 0).astype(np.float64)
        step = np.ceil(share * BINS - 1e-9).astype(np.int64)
        best, choice = _with_gains(best, step, gain)
        chosen.append(choice)
        steps.append(step)
    places = _backwards(chosen, steps, bins)
    _spend(places, costs, gains, budget)
    return places


def least_cost(costs: Sequence[Array], gains: Sequence[Array], target: float, /) -> list[int] | None:
    """Choose one option of each thing so that the cost is least and the gain reaches the target.

    Gains are rounded down to a ten-thousandth of the target, so that it is reached.

    Args:
        costs: For each thing the cost of every option; a saving is negative.
        gains: For each thing the gain of every option, at least 0.
        target: What the gains must come to together, above 0.

    Returns:
        The place of the chosen option for each thing, or None where the target is out of reach.

    Example:
        >>> costs, gains = np.array([0.0, 2.0]), np.array([0.0, 1.0])
        >>> least_cost([costs, 3 * costs], [gains, gains], 1.0)
        [1, 0]
    """
    best, chosen, steps = np.full(BINS + 1, np.inf), [], []
    best[0] = 0.0
    for cost, gain in zip(costs, gains, strict=True):
        step = np.floor(np.minimum(gain / target, 2.0) * BINS + 1e-9).astype(np.int64)
        best, choice = _with_costs(best, step, cost)
        chosen.append(choice)
        steps.append(step)
    return _backwards(chosen, steps, BINS) if np.isfinite(best[BINS]) else None


def _with_gains(best: Array, steps: Whole, gains: Array) -> tuple[Array, Whole]:
    """Return the largest gain within each budget with one thing more, and by which option."""
    after, choice = np.full_like(best, -np.inf), np.zeros(len(best), dtype=np.int64)
    for place, (step, gain) in enumerate(zip(steps, gains, strict=True)):
        if step >= len(best):
            continue
        reached = best[: len(best) - step] + gain
        better = reached > after[step:]
        after[step:][better] = reached[better]
        choice[step:][better] = place
    return after, choice


def _with_costs(best: Array, steps: Whole, costs: Array) -> tuple[Array, Whole]:
    """Return the least cost of each target or more with one thing more, and by which option."""
    after, choice = np.full_like(best, np.inf), np.zeros(len(best), dtype=np.int64)
    targets = np.arange(len(best))
    for place, (step, cost) in enumerate(zip(steps, costs, strict=True)):
        reached = best[np.maximum(targets - step, 0)] + cost
        better = reached < after
        after[better] = reached[better]
        choice[better] = place
    return after, choice


def _backwards(chosen: Sequence[Whole], steps: Sequence[Whole], place: int) -> list[int]:
    """Return the option of each thing, read from the last to the first."""
    options = []
    for choice, step in zip(reversed(chosen), reversed(steps), strict=True):
        options.append(int(choice[place]))
        place = max(0, place - int(step[options[-1]]))
    return options[::-1]


def _spend(places: list[int], costs: Sequence[Array], gains: Sequence[Array], budget: float) -> None:
    """Change options, in place, as long as one with more gain still fits the budget, the largest first."""
    while True:
        left = budget - sum(cost[place] for cost, place in zip(costs, places, strict=True))
        found = (0.0, 0, 0)
        for thing, (cost, gain, place) in enumerate(zip(costs, gains, places, strict=True)):
            more = np.where(cost - cost[place] <= left, gain - gain[place], 0.0)
            found = max(found, (float(more.max()), thing, int(more.argmax())))
        if found[0] <= 0:
            return
        places[found[1]] = found[2]
