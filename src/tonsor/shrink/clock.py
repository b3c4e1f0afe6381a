"""How long a model takes at other widths, on this device: measured on sliced copies."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.shrink.collect import Group
from tonsor.shrink.copies import copied
from tonsor.shrink.cut import cut_
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.trace import MODEL_ERRORS
from tonsor.shrink.trial import gone_from, graph_of

WARM_UP = 2  # calls before the clock counts
SECONDS = 0.25  # of timed calls a model, at most `CALLS` and at least three
CALLS = 40
SHARES = (0.25, 0.5, 0.75)  # widths of each group that are measured; between them it is interpolated


def milliseconds(
    models: Sequence[nn.Module], example: tuple[tuple[Any, ...], Mapping[str, Any]]
) -> list[float]:
    """Return how long one call of each model takes: the median, the models taking turns.

    Args:
        models: They are called in eval mode, without gradients, with the threads torch is set to use.
        example: The arguments of one call: a tuple and a dict.

    Example:
        >>> [taken] = milliseconds([nn.Linear(2, 2)], ((torch.ones(1, 2),), {}))
        >>> 0 < taken < 1000
        True
    """
    args, kwargs = example
    taken: list[list[float]] = [[] for _ in models]
    spent = 0.0
    for turn in range(WARM_UP + CALLS):
        for times, model in zip(taken, models, strict=True):
            times.append(_one_call(model, args, kwargs))
        spent += 0.0 if turn < WARM_UP else sum(times[-1] for times in taken) / 1000
        if turn >= WARM_UP + 2 and spent > SECONDS * len(models):
            break
    return [float(np.median(times[WARM_UP:])) for times in taken]


def latency_tables(model: nn.Module, groups: ChannelGroups) -> dict[str, dict[int, float]]:
    """Return for each group how long one call takes at some of its widths, all other groups being whole.

    Each width is timed in turns with the whole model, and told as that model's time times the ratio of the
    two, so that a busy machine does not blur the differences.

    Args:
        model: It is copied, and left as it is.
        groups: Its groups, with the example that is called.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 2))
        >>> tables = latency_tables(model, channel_groups(model, torch.ones(1, 2)))
        >>> list(tables["0.weight"])
        [2, 4, 6, 8]
    """
    example = groups.trace.example
    [whole] = milliseconds([model], example)
    tables: dict[str, dict[int, float]] = {}
    for name, group in groups.groups.items():
        widths = sorted({max(1, round(share * group.units)) for share in SHARES} - {group.units})
        tables[name] = {}
        for width in widths:
            small = at_widths(model, groups, {name: width})
            now, then = milliseconds([model, small], example)
            tables[name][width] = whole * then / now
        tables[name][group.units] = whole
    return tables


def interpolated(table: Mapping[int, float], units: int) -> np.ndarray:
    """Return the time at every width from 0 to all units, never less where it is wider.

    Example:
        >>> interpolated({2: 4.0, 4: 6.0}, 4).tolist()
        [2.0, 3.0, 4.0, 5.0, 6.0]
    """
    widths = np.array(list(table))
    times = np.minimum.accumulate(np.array(list(table.values()))[::-1])[::-1]  # noise must not make it dearer
    found = np.interp(np.arange(units + 1), widths, times)
    if len(widths) > 1:
        below = np.arange(widths[0])
        slope = (times[1] - times[0]) / (widths[1] - widths[0])
        found[below] = times[0] - slope * (widths[0] - below)
    return found


def at_widths(model: nn.Module, groups: ChannelGroups, widths: Mapping[str, int]) -> nn.Module:
    """Return a copy of the model in which groups are so wide; which units stay does not matter to a clock.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 2))
        >>> at_widths(model, channel_groups(model, torch.ones(1, 2)), {"0.weight": 3})[0]
        Linear(in_features=2, out_features=3, bias=True)
    """
    slices: dict[str, dict[int, Tensor]] = {}
    for name, width in widths.items():
        group: Group = groups.groups[name]
        for part in group.slices if width < group.units else ():
            size = groups.trace.shapes[part.parameter][part.dim]
            stay = slices.setdefault(part.parameter, {}).setdefault(part.dim, torch.arange(size))
            slices[part.parameter][part.dim] = stay[~torch.isin(stay, part.index[width:])]
    small = copied(model)
    with torch.no_grad():
        cut_(small, slices, {})
    if not _runs(small, groups):
        graph_of(model, groups, gone_from(groups, slices)).finish_(small)
    return small


def _runs(small: nn.Module, groups: ChannelGroups) -> bool:
    """Say whether the model's own code runs at the new sizes."""
    args, kwargs = groups.trace.example
    try:
        with evaluating(small):
            small(*args, **kwargs)
    except MODEL_ERRORS:
        return False
    return True


def _one_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """Return the milliseconds of one call, the device waited for."""
    away = any(parameter.device.type != "cpu" for parameter in model.parameters())
    with evaluating(model):
        if away:
            torch.accelerator.synchronize()
        start = time.perf_counter()
        model(*args, **kwargs)
        if away:
            torch.accelerator.synchronize()
        return (time.perf_counter() - start) * 1000
