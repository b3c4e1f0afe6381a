"""Fit a model to bytes, milliseconds or a loss: one search over channels, zeros and bits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tonsor.files import write_bytes, write_json, write_text
from tonsor.recipe.fitting_bench import Bench, Given, told
from tonsor.recipe.fitting_how import How
from tonsor.recipe.fitting_limits import Budget, Limits
from tonsor.recipe.fitting_maker import Point
from tonsor.recipe.fitting_rows import PICKED, PICTURE, SUMMARY, Figures, Rows, frontier
from tonsor.recipe.fitting_search import search
from tonsor.report import budget_plot
from tonsor.tensors import fingerprint

SPARSER = 0.7  # of the density: the next candidate that is trained, as long as that helps
TUNED = 4  # candidates at most that are trained


@dataclass(frozen=True)
class Fitted:
    """Hold what a search came to.

    Args:
        model: The pick, with the values that its packed file holds.
        figures: What stands in `fit.json`: `pick`, `dense` and `rows` with the figures of the models, and
            `frontier` with the names of those that no other one beats.
        path: The packed file of the pick.
        why: Lines that say how it was chosen, and how it runs fastest.

    Example:
        >>> Fitted(nn.Identity(), {"pick": {"bytes": 900}}, Path("picked.tonsor"), []).figures["pick"]
        {'bytes': 900}
    """

    model: nn.Module
    figures: Figures
    path: Path
    why: list[str]


def fit_budget(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    evaluate: Callable[[nn.Module], float],
    calibration: Iterable[tuple[Any, Any]],
    folder: str | Path,
    /,
    *,
    how: How | None = None,
    **limits: Unpack[Limits],
) -> Fitted:
    """Find the best small model within a budget: which channels go, how many zeros, and bits by tensor.

    A candidate is a copy whose channels are cut (`shrink_to`) and whose zeros are set layer by layer, both
    made up for by a refit to the dense layers' outputs, whose weights then share values, trained for some
    steps to give the dense model's answers; it is packed, unpacked, and what was unpacked is judged. None of
    it looks at a label. A table of sizes and one of times, measured first, tell which candidates can keep the
    budget; a coarse grid of those is tried, and then what lies between the best one and its neighbours. Bits
    are a matter of each candidate: the most that the bytes allow, or the fewest that the fall allows.

    Every candidate is kept in the folder, its row of figures last, so that a search that was stopped goes
    on; later searches with other limits choose among all candidates that are there.

    Args:
        model: The trained model; it is left as it is.
        example: The arguments of one call, the batch first.
        evaluate: Gives the metric of a model, which is in evaluation mode; higher is better.
        calibration: Pairs of inputs and anything, as for `tonsor.prune.heal`: some thousand samples. What
            stands beside the inputs is not looked at.
        folder: Where everything is kept.
        how: How candidates are made and measured.
        **limits: At least one of `max_bytes` (of the packed file), `latency_ms` (of a call with `how.batch`
            samples on this machine) and `max_fall` (of the metric, in hundredths). With `max_fall` the pick
            is the smallest file that keeps all limits, else the one with the highest metric.

    Returns:
        The pick, as a model and a packed file, and all figures.

    Raises:
        ValueError: If no candidate keeps the budget: says the nearest, and what to try; if the folder is of
            another model or of other calibration data; or if a limit makes no sense.

    Example:
        >>> import tempfile, torch
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(64, 16)
        >>> answers = model(x).argmax(1)
        >>> def evaluate(small): return float((small(x).argmax(1) == answers).float().mean())
        >>> how, folder = How(steps=8, shares=(1.0,), most=4), tempfile.mkdtemp()
        >>> fitted = fit_budget(model, x, evaluate, [(x, None)], folder, how=how, max_bytes=1500)
        >>> fitted.path.stat().st_size <= 1500, fitted.path.name, evaluate(fitted.model) > 0.8
        (True, 'picked.tonsor', True)
    """
    budget, how, folder = Budget(**limits), how or How(), Path(folder)
    batches = [(inputs, None) for inputs, _ in calibration]
    of = {"weights": fingerprint(model.state_dict()), "calibration": fingerprint(_tensors(batches))}
    bench = Bench(Given(model, example, evaluate, batches, how, budget), Rows(folder, of))
    search(how.shares, bench.ranges, bench.try_, budget.rank, is_enough=bench.is_enough, most=how.most)
    rows = _comparable(bench)
    pick = min(rows, key=budget.rank, default=None)
    if pick is not None and how.tune is not None:
        pick = _tuned(bench, pick)
        rows = _comparable(bench)
    _check(budget, bench, pick)
    assert pick is not None, "it keeps the budget"
    return _written(bench, rows, pick, folder)


def _tensors(batches: list[tuple[Any, Any]]) -> dict[str, Tensor]:
    """Return every tensor of the inputs by its place."""
    leaves = tree_leaves([dict(x) if isinstance(x, Mapping) else x for x, _ in batches])
    return {str(place): leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}


def _comparable(bench: Bench) -> list[Figures]:
    """Return every candidate of the folder; where time is limited, those that were timed alike."""
    rows = [row for _, row in sorted(bench.rows.known.items()) if "bits" in row]
    if bench.given.budget.latency_ms is None:
        return rows
    return [row for row in rows if row["timed"] == bench.clock.label]


def _tuned(bench: Bench, pick: Figures) -> Figures:
    """Train the pick, and sparser ones as long as that is better; return the best."""
    rank, point = bench.given.budget.rank, Point(pick["share"], pick["sparsity"])
    best = pick
    for _ in range(TUNED):
        row = bench.tuned(point)
        if rank(row) >= rank(best) and best is not pick:
            break
        best = min(best, row, key=rank)
        if bench.given.budget.max_bytes is None and bench.given.budget.max_fall is None:
            break
        point = Point(point.share, round(1 - (1 - point.sparsity) * SPARSER, 4))
    return best


def _check(budget: Budget, bench: Bench, pick: Figures | None) -> None:
    """Say what is in the way where no candidate keeps the budget."""
    if pick is not None and budget.meets(pick):
        return
    can_train = bench.given.how.tune is None and budget.max_fall is not None
    tune = ", or train the pick (--tune)" if can_train else ""
    if pick is None:
        raise ValueError(
            f"fit: no width, sparsity or number of bits was foreseen to keep the budget ({budget}); allow"
            f" more (dense: {bench.dense['bytes']:,} bytes, {bench.dense['latency_ms']:.3g} ms)"
        )
    raise ValueError(
        f"fit: no candidate keeps the budget ({budget}). The nearest: {told(pick)}, which has "
        f"{'; '.join(budget.misses(pick))}. All candidates are kept; allow more{tune}"
    )


def _written(bench: Bench, rows: list[Figures], pick: Figures, folder: Path) -> Fitted:
    """Write the pick, the summary and the picture."""
    budget = bench.given.budget
    costs = [
        *(["bytes"] if budget.max_bytes is not None or budget.max_fall is not None else []),
        *(["latency_ms"] if budget.latency_ms is not None else []),
    ]
    model = bench.model(pick)
    ways = bench.rows.once(
        f"time-{pick['name']}-{bench.clock.label}", lambda _: {"ways": bench.clock.ways(model)}
    )
    best = frontier(rows, costs)
    picked = {**pick, "ways": pick["ways"] if len(pick["ways"]) > 1 else ways["ways"]}
    path = folder / PICKED
    write_bytes(path, bench.rows.packed(pick["name"]).read_bytes())
    limits = {"max_bytes": budget.max_bytes, "latency_ms": budget.latency_ms, "max_fall": budget.max_fall}
    figures = {"limits": limits, "dense": bench.dense, "rows": rows, "frontier": best, "pick": picked}
    write_json(folder / SUMMARY, figures)
    write_text(folder / PICTURE, budget_plot(figures))
    return Fitted(model, figures, path, _why(budget, rows, picked))


def _why(budget: Budget, rows: list[Figures], pick: Figures) -> list[str]:
    """Return how the pick was chosen, and how it runs fastest, a line each."""
    fitting = sum(budget.meets(row) for row in rows)
    ways = ", ".join(f"{way} {taken:.3g} ms" for way, taken in pick["ways"].items())
    other = "" if "sparse layers" in pick["ways"] else "; sparse layers were faster for none"
    return [
        f"* {budget.why()} of the {fitting} candidates of {len(rows)} that keep the budget: {budget}",
        f"runs ({pick['timed'].replace('-', ' ')}): {ways}{other}",
    ]
