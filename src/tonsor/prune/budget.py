"""Solve for the sparsity that meets a budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tonsor.prune.by_weight import magnitude
from tonsor.prune.find import Ready, prepare
from tonsor.prune.protocol import Importance, Pattern, Scope, Stats
from tonsor.prune.scopes import across


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Say what the weights that stay may cost.

    Args:
        cost: Called with masks by name, gives a number; removing more must never cost more.
        share: The most it may be, as a share of what the whole weights cost, in [0, 1].
        limit: The most it may be, in the cost's own unit; give one of the two.

    Raises:
        ValueError: If not exactly one of `share` and `limit` is given, or it is out of range.

    Example:
        >>> from tonsor.prune import parameters
        >>> half = Budget(cost=parameters, share=0.5)
        >>> half.most({"w": torch.zeros(4, 2)})
        4.0
    """

    cost: Callable[..., float]
    share: float | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.limit is None):
            raise ValueError(
                f"prune.Budget: give either share or limit; got share={self.share}, limit={self.limit}"
            )
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError(f"prune.Budget: share must lie in [0, 1]; got {self.share}")
        if self.limit is not None and not self.limit >= 0:
            raise ValueError(f"prune.Budget: limit must be at least 0; got {self.limit}")

    def most(self, weights: Mapping[str, Tensor], /) -> float:
        """Return the most that the masks of these weights may cost."""
        if self.share is None:
            return float(self.limit or 0)
        return self.share * self.cost({n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()})


@torch.no_grad()
def find_sparsity(
    weights: Mapping[str, Tensor],
    budget: Budget,
    /,
    *,
    stats: Stats | None = None,
    importance: Importance = magnitude,
    pattern: Pattern | None = None,
    scope: Scope = across,
    within: Mapping[str, Tensor] | None = None,
) -> float:
    """Find the lowest sparsity whose masks meet a budget.

    Its masks are those one gets by removing the least important unit, one by one, by the scores of the
    weights as they are, until the budget holds. Because what a sparsity removes every higher one removes too,
    halving finds it: the weights are scored once, the units chosen as often as their number can be halved.

    Args:
        weights: As `find_masks` takes them, and so are all that follow but the budget.
        budget: What the weights that stay may cost.
        stats: Statistics by weight and name.
        importance: Scores the elements.
        pattern: Joins the elements to units; single elements if not given.
        scope: Says which units compete.
        within: Masks of before; what they removed costs nothing.

    Returns:
        The sparsity k / units of the lowest k that will do: hand it to `find_masks` with the same arguments.

    Raises:
        ValueError: If the budget cannot be met, or `find_masks` would refuse.

    Example:
        >>> from tonsor.prune import find_masks, parameters
        >>> w = {"w": torch.tensor([4.0, 1.0, 3.0, 2.0])}
        >>> sparsity = find_sparsity(w, Budget(cost=parameters, limit=3))
        >>> sparsity, find_masks(w, sparsity)
        (0.25, {'w': tensor([ True, False,  True,  True])})
    """
    ready = prepare(weights, stats=stats, importance=importance, pattern=pattern, within=within)
    units = dict(ready.units)  # computed once: they are looked at often
    ready = Ready(weights, units, ready.pattern, ready.before)
    total = sum(unit.numel() for unit in units.values())
    most = budget.most(weights)

    def holds(count: int) -> bool:
        return budget.cost(ready.masks(scope, count / total)) <= most

    if not total or holds(0):
        return 0.0
    last = _last(scope, units, total)
    if not holds(last):
        cheapest = budget.cost(ready.masks(scope, last / total))
        raise ValueError(
            f"prune.find_sparsity: the budget cannot be met: the cost may be {most:g}, and at a sparsity"
            f" of {last / total:g}, the highest of this scope, it is {cheapest:g}; allow more, or add weights"
        )
    return _first(holds, 0, last) / total


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the lowest count that holds, where none up to `low` does and `high` does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _last(scope: Scope, units: Mapping[str, Tensor], total: int) -> int:
    """Return the highest count below the total that a scope does not refuse."""

    def is_refused(count: int) -> bool:
        try:
            scope(units, count / total)
        except ValueError:
            return True
        return False

    if not is_refused(total - 1):
        return total - 1
    return _first(is_refused, 0, total - 1) - 1
