"""Where a search looks: a coarse grid, then between the best candidate and its neighbours."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tonsor.recipe.fitting_maker import Point

Range = tuple[float, float]  # the lowest and highest sparsity that is of use at a width
COARSE = 4  # sparsities of the grid at each width
SMALLEST = 0.03  # share of the multiplications that is tried
TURNS = 4  # times that the best candidate's neighbourhood is divided
NEAR = 1.08  # ratio of two densities, or of two shares, between which nothing new is to be found


def coarse(share: float, within: Range) -> list[Point]:
    """Return a width's sparsities of the grid, evenly spread in the logarithm of the density.

    Example:
        >>> [round(point.sparsity, 3) for point in coarse(1.0, (0.0, 0.99))]
        [0.0, 0.785, 0.954, 0.99]
        >>> coarse(0.5, (0.9, 0.9))
        [Point(share=0.5, sparsity=0.9)]
    """
    low, high = within
    if (1 - low) / (1 - high) < NEAR:
        return [Point(share, round(low, 4))]
    first, last = math.log(1 - low), math.log(1 - high)
    logs = [first + (last - first) * step / (COARSE - 1) for step in range(COARSE)]
    return [Point(share, round(1 - math.exp(at), 4)) for at in logs]


def between(
    best: Point, tried: Iterable[Point], shares: Iterable[float], ranges: Callable[[float], Range | None]
) -> list[Point]:
    """Return the candidates halfway between the best one and its neighbours.

    In sparsity between those of the same width; in width between the next ones that were looked at, with as
    many weights that are not zero. From the narrowest it goes on to half of it.

    Args:
        best: The best candidate so far.
        tried: All candidates so far.
        shares: All widths so far, those too at which nothing can keep the budget.
        ranges: The sparsities that are of use at a width.

    Example:
        >>> tried = [Point(1.0, 0.0), Point(1.0, 0.75), Point(1.0, 0.9375)]
        >>> between(tried[1], tried, [1.0], lambda share: (0.0, 0.99))
        [Point(share=1.0, sparsity=0.5), Point(share=1.0, sparsity=0.875), Point(share=0.5, sparsity=0.5)]
    """
    same = sorted({point.sparsity for point in tried if point.share == best.share})
    at = same.index(best.sparsity)
    found = []
    for other in same[max(0, at - 1) : at] + same[at + 1 : at + 2]:
        least, most = sorted((1 - best.sparsity, 1 - other))
        if most / least > NEAR:
            found.append(Point(best.share, round(1 - math.sqrt(least * most), 4)))
    widths = sorted(set(shares))
    widths = [widths[0] / 4, *widths] if widths[0] / 2 > SMALLEST else widths
    at = widths.index(best.share)
    for other in widths[max(0, at - 1) : at] + widths[at + 1 : at + 2]:
        share = round(math.sqrt(best.share * other), 3)
        if max(best.share, other) / min(best.share, other) > NEAR**2 and (within := ranges(share)):
            sparsity = 1 - (1 - best.sparsity) * best.share / share
            found.append(Point(share, round(min(max(sparsity, within[0]), within[1]), 4)))
    return [point for point in found if point not in set(tried)]


def search(
    shares: Iterable[float],
    ranges: Callable[[float], Range | None],
    try_: Callable[[Point], Mapping[str, Any]],
    rank: Callable[[Mapping[str, Any]], tuple[float, ...]],
    *,
    is_enough: Callable[[Mapping[str, Any]], bool] = lambda row: False,
    most: int = 32,
) -> dict[Point, Mapping[str, Any]]:
    """Try a coarse grid, then refine around the best, and return every candidate with what came of it.

    Args:
        shares: Widths of the grid, the widest first.
        ranges: The sparsities that are of use at a width; nothing where none is.
        try_: Makes and measures a candidate.
        rank: What the best candidate has least of.
        is_enough: Says of a candidate that more zeros at this width are of no use.
        most: Candidates at most.

    Example:
        >>> def try_(point): return {"off": abs(point.sparsity - 0.6)}
        >>> done = search([1.0], lambda share: (0.0, 0.99), try_, lambda row: (row["off"],))
        >>> round(min(done, key=lambda point: done[point]["off"]).sparsity, 1)
        0.6
    """
    done: dict[Point, Mapping[str, Any]] = {}
    seen = list(shares)
    for share in seen:
        within = ranges(share)
        for point in coarse(share, within)[: most - len(done)] if within else ():
            done[point] = try_(point)
            if is_enough(done[point]):
                break
    for _ in range(TURNS if done else 0):
        best = min(done, key=lambda point: rank(done[point]))
        found = between(best, done, seen, ranges)[: most - len(done)]
        done.update((point, try_(point)) for point in found)
        seen += sorted({point.share for point in found} - set(seen))
    return done
