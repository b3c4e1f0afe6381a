"""Which units of a masked model can be removed, and why others cannot."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.limits import Limits
from tonsor.shrink.survey import Reading

LAST = "the last one of its group"
LIMIT = "a limit keeps it"
PADDED = "constant, but zeros are padded around it"
HOMELESS = "constant, but no bias can take it"


@dataclass(frozen=True)
class Decision:
    """Say what goes.

    Args:
        gone: Of each label: it goes.
        removed: The units that go, by group.
        stays: Units that do nothing and stay all the same: group, how many, why.

    Example:
        >>> Decision(torch.zeros(1, dtype=torch.bool), {}, ()).removed
        {}
    """

    gone: Tensor
    removed: dict[str, list[int]]
    stays: tuple[tuple[str, int, str], ...]


def decide(
    groups: ChannelGroups, readings: Sequence[Reading], *, only: Collection[str] | None = None
) -> Decision:
    """Find the units that nobody reads, or of which only a constant is read that a bias can take.

    What a removed unit reads needs nobody: units are removed until nothing changes. One unit of each
    group stays, or as many as its limits ask for.

    Args:
        groups: The groups.
        readings: What the masked model reads.
        only: The groups that may lose units; `None` means all.

    Example:
        >>> from torch import nn
        >>> from tonsor.shrink import channel_groups
        >>> from tonsor.shrink.survey import survey
        >>> model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
        >>> model[1].weight.data[0, 1] = 0.0
        >>> groups = channel_groups(model, torch.ones(1, 1))
        >>> decide(groups, survey(model, groups)).removed
        {'0.weight': [1]}
    """
    free = [g for name, g in groups.groups.items() if only is None or name in only]
    may = torch.zeros(len(groups.roots), dtype=torch.bool)
    for group in free:
        may[group.roots] = True
    gone = torch.zeros_like(may)
    while True:
        next_gone = may & ~_blocked(readings, gone)
        for group in free:
            dead = next_gone[group.roots]
            live = group.units - int(dead.sum())
            late = group.roots[dead & ~gone[group.roots]]
            next_gone[late[: groups.limits.needed(group.name, group.units, live) - live]] = False
        if torch.equal(next_gone, gone):
            break
        gone = next_gone
    removed = {g.name: gone[g.roots].nonzero().flatten().tolist() for g in free}
    stays = _stays(groups, readings, gone)
    return Decision(gone, {name: units for name, units in removed.items() if units}, stays)


def _blocked(readings: Sequence[Reading], gone: Tensor) -> Tensor:
    """Return which labels are read in earnest."""
    blocked = torch.zeros_like(gone)
    for reading in readings:
        blocked[reading.columns[reading.blocked(gone)]] = True
    return blocked


def _stays(
    groups: ChannelGroups, readings: Sequence[Reading], gone: Tensor
) -> tuple[tuple[str, int, str], ...]:
    """Return the units that do nothing but stay, counted by group and reason."""
    why = _idle(readings, gone)
    found: Counter[tuple[str, str]] = Counter()
    last = LAST if groups.limits == Limits() else LIMIT
    for group in (*groups.groups.values(), *groups.frozen):
        for root in group.roots.tolist():
            if root in why and not gone[root]:
                found[group.name, group.reason or why[root] or last] += 1
    return tuple((name, count, reason) for (name, reason), count in found.items())


def _idle(readings: Sequence[Reading], gone: Tensor) -> dict[int, str]:
    """Return the labels of which nothing but constants is read, each with why it could not go."""
    needed = torch.zeros_like(gone)
    read = torch.zeros_like(gone)
    held: dict[int, str] = {}
    for reading in readings:
        blocked = reading.blocked(gone)
        read[reading.columns] = True
        needed[reading.columns[blocked & ~reading.steady]] = True
        reason = HOMELESS if reading.bare else PADDED
        held |= dict.fromkeys(reading.columns[blocked & reading.steady].tolist(), reason)
    idle = (read & ~needed).nonzero().flatten().tolist()
    return {root: held.get(root, "") for root in idle}
