"""Shrink a model to a target that a person has: multiplications, parameters, bytes, or time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from tonsor.shrink.clock import at_widths, interpolated, latency_tables, milliseconds
from tonsor.shrink.find import channel_groups
from tonsor.shrink.followed import Average
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.shrink import shrink_
from tonsor.shrink.shrunk import Shrunk
from tonsor.shrink.target import Aim, Target, aim_of
from tonsor.shrink.widths import Curves, Widths, least_cut, losses

Scores: TypeAlias = Mapping[str, Tensor] | Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
Tables: TypeAlias = dict[str, dict[int, float]]
FAINT = 0.3  # of its share of the multiplications: what a cut is worth where alone it won no time


@dataclass(frozen=True)
class Reached:
    """Say how a model came to its target.

    Args:
        target: What was counted: "macs", "params", "bytes" or "latency_ms".
        before: What it was.
        bound: The most it was to be.
        after: What it is.
        widths: Units that stay, of how many, by group.
        shrunk: What was removed, and how it was proved.
        tables: For a target in time: milliseconds by group and width, all other groups being whole.

    Example:
        >>> shrunk = Shrunk({"a": [0]}, 8, 4, (), 0.0)
        >>> print(Reached("macs", 8, 4, 4, {"a": (1, 2)}, shrunk))
        macs: 4 of 8, at most 4 were wanted; outputs differ by at most 0.0e+00 of the largest
        a: 1 of 2 units stay
    """

    target: str
    before: float
    bound: float
    after: float
    widths: dict[str, tuple[int, int]]
    shrunk: Shrunk
    tables: Tables = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        lines = [
            f"{self.target}: {_number(self.after)} of {_number(self.before)}, at most "
            f"{_number(self.bound)} were wanted; "
            f"outputs differ by at most {self.shrunk.max_difference:.1e} of the largest"
        ]
        lines += [f"{name}: {stay} of {units} units stay" for name, (stay, units) in self.widths.items()]
        return "\n".join(lines)


def shrink_to(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    scores: Scores | None = None,
    groups: ChannelGroups | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Average | Sequence[Average] | None = None,
    **target: Unpack[Target],
) -> Reached:
    r"""Shrink a model to one target, in place, by the least cut that meets it, and prove the result.

    Every group gets the width that loses least at a price: :math:`\min_w 1/k(w)^2 + \lambda\, c(w)`, where k
    is the share that the best w units have of all scores of the group, c is what the group costs at that
    width, and the price :math:`\lambda` is the lowest that meets the target. Costs are counted exactly, on
    both sides of every matrix. Time is measured on this device: first a table for each group at some of its
    widths, with which the cuts go where time is won; then every choice on a sliced copy of the model.

    Args:
        model: Any module that `torch.export` can export; changed in place.
        example: The arguments of one call; a lone tensor may stand for itself. `macs` and `latency_ms` are
            those of this call with its whole batch.
        scores: Importances by parameter name, shaped like the parameters, higher for what shall stay; or a
            function that gives these for the weights by name. The squares of all weights of two or more
            dimensions where nothing is given.
        groups: From `channel_groups`, with limits and ways to score if wanted; they are found if not given.
        optimizer: As in `shrink_`.
        ema: As in `shrink_`.
        **target: Exactly one of `macs`, `params`, `bytes` (of parameters and buffers) and `latency_ms`: the
            most that the model may have. Below 1 it is a share of what it has now.

    Returns:
        What was asked and reached, the widths, and what `shrink_` returned.

    Raises:
        ValueError: If the target is none, or lower than the limits of the groups allow: says the lowest that
            can be reached. The model is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> reached = shrink_to(model, torch.ones(1, 4), params=0.5)
        >>> reached.before, reached.after, model[0].out_features
        (58.0, 23.0, 3)

    References:
        Shen et al., 2022, "Structural Pruning via Latency-Saliency Knapsack",
        https://arxiv.org/abs/2210.06659
    """
    aim = aim_of(target)
    found = groups or channel_groups(model, example).scored(normalise="none")
    units = found.reduce(_scores(model, scores))
    tables = latency_tables(model, found) if aim.name == "latency_ms" else {}
    curves = _curves(found, units, aim, tables)
    cost = _cost(model, found, aim)
    now = cost({})
    bound = aim.bound(now)
    widths = least_cut(curves, cost, bound, exact=not tables)
    if widths is None:
        lowest = cost(curves.narrowest())
        raise ValueError(
            f"shrink.shrink_to: within the limits of the groups {aim.name} can be brought from "
            f"{_number(now)} to {_number(lowest)}; {_number(bound)} was asked for"
        )
    keep = {name: _highest(units[name], width) for name, width in widths.items()}
    masks = found.expand(keep, dict(model.named_parameters(remove_duplicate=False)))
    shrunk = shrink_(model, found, masks, optimizer, ema)
    return _told(model, found, aim, (now, bound), shrunk, tables)


def _scores(model: nn.Module, scores: Scores | None) -> Mapping[str, Tensor]:
    """Return the scores of the weights."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    if scores is None:
        return {name: weight.square() for name, weight in weights.items()}
    return scores(weights) if callable(scores) else scores


def _curves(groups: ChannelGroups, units: Mapping[str, Tensor], aim: Aim, tables: Tables) -> Curves:
    """Return what each group loses and costs at each width; groups that were not scored stay whole."""
    loss, price, allowed = {}, {}, {}
    counted = "macs" if tables else aim.name
    total = getattr(groups.costs.after({}), counted) or 1
    for name, scores in units.items():
        size = groups.groups[name].units
        loss[name] = losses(scores)
        each = getattr(groups.costs.unit(name), counted) / total
        price[name] = each * np.arange(size + 1)
        if tables:
            times = interpolated(tables[name], size)
            price[name] = FAINT * price[name] + times / times[-1]
        allowed[name] = sorted(set(groups.limits.allowed(name, size)))
    return Curves(loss, price, allowed)


def _cost(model: nn.Module, groups: ChannelGroups, aim: Aim) -> Callable[[Widths], float]:
    """Return how the model's cost at given widths is counted or measured."""
    whole = {name: group.units for name, group in groups.groups.items()}
    if aim.name != "latency_ms":
        return lambda widths: float(
            getattr(groups.costs.after({n: whole[n] - w for n, w in widths.items()}), aim.name)
        )
    example = groups.trace.example
    [now] = milliseconds([model], example)

    def measured(widths: Widths) -> float:
        if not widths or widths == {name: whole[name] for name in widths}:
            return now
        dense, small = milliseconds([model, at_widths(model, groups, widths)], example)
        return now * small / dense

    return measured


def _highest(scores: Tensor, count: int) -> Tensor:
    """Return which units stay when so many do; of equal ones the first go first."""
    keep = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    keep[scores.argsort(stable=True)[len(scores) - count :]] = True
    return keep


def _told(
    model: nn.Module,
    groups: ChannelGroups,
    aim: Aim,
    asked: tuple[float, float],
    shrunk: Shrunk,
    tables: Tables,
) -> Reached:
    """Return what was reached, counted or measured on the model as it is now."""
    before, bound = asked
    gone = {name: len(units) for name, units in shrunk.removed.items()}
    if tables:
        [after] = milliseconds([model], groups.trace.example)
    else:
        after = float(getattr(groups.costs.after(gone), aim.name))
    widths = {name: (group.units - gone.get(name, 0), group.units) for name, group in groups.groups.items()}
    return Reached(aim.name, before, bound, after, widths, shrunk, tables)


def _number(value: float) -> str:
    """Return a count in full and a measured time in four digits."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
