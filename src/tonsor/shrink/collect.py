"""Put labels that became one, and units that look alike, into groups."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tonsor.shrink.interpret import Entry
from tonsor.shrink.labels import CONSUMER, DIRECTION, INNER, PRODUCER, Labels
from tonsor.shrink.trace import Trace

ROLES = {0: "through", PRODUCER: "producer", CONSUMER: "consumer", PRODUCER | CONSUMER: "both"}
ROLES |= {DIRECTION | role: "direction" for role in list(ROLES)}

ALONE = "all its channels are one"
SHOWN = 6  # slices of a group that its description names


@dataclass(frozen=True)
class Slice:
    """Say which places along one dimension of a parameter or buffer belong to each unit.

    Args:
        parameter: The name of the parameter or buffer.
        dim: The dimension.
        role: "producer" (a row makes the channel), "consumer" (a column reads it), "both" or
            "through" (a bias, a norm's scale, running statistics, a depthwise filter), or "direction" (a row
            that a weight norm divides by its length: masks leave it, as the length must not be zero).
        index: Places `(units, places a unit)`; a channel that was flattened has several.

    Example:
        >>> Slice("0.weight", 0, "producer", torch.tensor([[0], [1]])).index.shape
        torch.Size([2, 1])
    """

    parameter: str
    dim: int
    role: str
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Hold units that have slices of the same parameters, and so compete with one another.

    Args:
        name: The first weight that produces the units.
        units: How many there are.
        slices: What goes with each unit.
        cost: How many parameters one unit has in all.
        reason: Why the units must stay; empty where they need not.
        roots: The label of each unit.

    Example:
        >>> part = Slice("0.weight", 0, "producer", torch.tensor([[0], [1]]))
        >>> Group("0.weight", 2, (part,), 4, "", torch.tensor([1, 2])).describe()
        '0.weight[0]'
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    cost: int
    reason: str
    roots: Tensor

    def describe(self) -> str:
        """Return its first slices in short: each parameter with the dimension."""
        shown = [f"{part.parameter}[{part.dim}]" for part in self.slices[:SHOWN]]
        more = len(self.slices) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def collect(labels: Labels, entries: list[Entry], trace: Trace) -> tuple[dict[str, Group], tuple[Group, ...]]:
    """Return the groups that can lose units, by name, and those that cannot."""
    roots = labels.flatten()
    reasons = labels.reason_of_root()[roots]
    free: dict[str, Group] = {}
    frozen = []
    for members in _families(roots.numpy(), reasons.numpy(), entries):
        why = labels.reasons[int(reasons[members[0, 0]])] or (ALONE if len(members) == 1 else "")
        if why == INNER:
            continue
        group = _group(members, labels, entries, trace, why)
        if why:
            frozen.append(group)
        else:
            name = _fresh(group.name, free)
            free[name] = replace(group, name=name)
    return free, tuple(frozen)


def _families(roots: np.ndarray, reasons: np.ndarray, entries: list[Entry]) -> list[Tensor]:
    """Return the labels `(units, labels a unit)` of units that lie in the same entries for one reason."""
    if not entries:
        return []
    roots = roots[: entries[-1].start + entries[-1].size]  # what lies behind has no parameter
    order = np.argsort(roots[1:], kind="stable") + 1
    places = np.searchsorted([entry.start for entry in entries], order, side="right") - 1
    first = np.flatnonzero(np.diff(roots[order], prepend=0))
    counts = np.diff(first, append=len(order))
    families = []
    for count in np.unique(counts):
        own = first[counts == count, None] + np.arange(count)
        alike = np.concatenate([reasons[order[own[:, :1]]], places[own]], axis=1)
        _, family = np.unique(alike, axis=0, return_inverse=True)
        cuts = np.flatnonzero(np.diff(np.sort(family.reshape(-1)))) + 1
        sorted_units = order[own[np.argsort(family.reshape(-1), kind="stable")]]
        families += [torch.from_numpy(part) for part in np.split(sorted_units, cuts)]
    return sorted(families, key=lambda members: int(members[0, 0]))


def _group(members: Tensor, labels: Labels, entries: list[Entry], trace: Trace, reason: str) -> Group:
    """Return the group of units `(units, labels a unit)` that all lie in the same entries."""
    starts = torch.tensor([entry.start for entry in entries])
    places = torch.searchsorted(starts, members[0], right=True) - 1
    slices = []
    for place in sorted(set(places.tolist())):
        entry, own = entries[place], members[:, places == place]
        role = ROLES[int(labels.role[own[0, 0]])]
        slices.append(Slice(entry.name, entry.dim, role, own - entry.start))
    made = [part for part in slices if part.role in ("producer", "both", "direction")]
    first = (made or slices)[0]
    name = first.parameter if made else f"{first.parameter} dim {first.dim}"
    cost = sum(_cost(slices, name, trace) for name in dict.fromkeys(s.parameter for s in slices))
    return Group(name, len(members), tuple(slices), cost, reason, members[:, 0])


def _cost(slices: list[Slice], name: str, trace: Trace) -> int:
    """Return how many elements of a parameter one unit has; a buffer has none."""
    if name in trace.buffers:
        return 0
    shape = trace.shapes[name]
    kept = list(shape)
    for part in slices:
        if part.parameter == name:
            kept[part.dim] -= part.index.shape[1]
    return int(np.prod(shape)) - int(np.prod(kept))


def _fresh(name: str, taken: dict[str, Group]) -> str:
    """Return the name, numbered if it is taken."""
    names = (f"{name} #{number}" if number > 1 else name for number in range(1, len(taken) + 2))
    return next(fresh for fresh in names if fresh not in taken)
