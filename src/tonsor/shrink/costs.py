"""What a model costs when groups lose units: exact, from the counts alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tonsor.shrink.collect import Group
from tonsor.shrink.trace import Trace
from tonsor.shrink.work import Term, Work


@dataclass(frozen=True)
class Cost:
    """Hold what a model costs.

    Args:
        params: Parameters, tied ones once.
        macs: Multiplications and additions of one call on the example, all of its batch.
        bytes: Of all parameters and buffers in memory.

    Example:
        >>> Cost(params=2, macs=8, bytes=8)
        Cost(params=2, macs=8, bytes=8)
    """

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Costs:
    """Count a model's costs at any number of units removed from its groups.

    A tensor of two groups, as most matrices are, shrinks on both sides; so the cost of a unit depends on
    what else goes, and is counted anew for each choice.

    Args:
        sides: For each tensor its shape and, for each dimension, the places a unit of a group has there.
        work: What one call multiplies.
        widths: The bytes of an element of each tensor.
        counted: The tensors that are parameters.
        shares: For each term of the work the groups whose channels it is repeated for.
        units: Units by group.

    Example:
        >>> import torch
        >>> from tonsor.shrink import channel_groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> costs = channel_groups(model, torch.ones(1, 4)).costs
        >>> costs.after({}), costs.after({"0.weight": 1})
        (Cost(params=23, macs=18, bytes=92), Cost(params=16, macs=12, bytes=64))
    """

    sides: Mapping[str, tuple[tuple[int, ...], tuple[Mapping[str, int], ...]]]
    work: Work
    widths: Mapping[str, int]
    counted: frozenset[str]
    shares: tuple[tuple[str, ...], ...]
    units: Mapping[str, int]

    def after(self, removed: Mapping[str, int]) -> Cost:
        """Return what the model costs when so many units are removed, by group."""
        left = {name: prod(self._sizes(name, removed)) for name in self.sides}
        macs = 0
        for term, groups in zip(self.work.terms, self.shares, strict=True):
            kept = prod(self.units[group] - removed.get(group, 0) for group in groups)
            macs += term.macs(left) * kept // prod(self.units[group] for group in groups)
        params = sum(size for name, size in left.items() if name in self.counted)
        return Cost(params, macs, sum(self.widths[name] * size for name, size in left.items()))

    def unit(self, group: str) -> Cost:
        """Return what the removal of one unit saves while all others are there."""
        whole, less = self.after({}), self.after({group: 1})
        return Cost(whole.params - less.params, whole.macs - less.macs, whole.bytes - less.bytes)

    def _sizes(self, name: str, removed: Mapping[str, int]) -> list[int]:
        """Return the shape that a tensor has left."""
        shape, dims = self.sides[name]
        return [
            size - sum(places * removed.get(group, 0) for group, places in of.items())
            for size, of in zip(shape, dims, strict=True)
        ]


def costs_of(groups: Mapping[str, Group], trace: Trace, work: Work) -> Costs:
    """Prepare the counting for groups of one graph.

    Example:
        >>> import torch
        >>> from tonsor.shrink.trace import trace_of
        >>> trace = trace_of(torch.nn.Linear(4, 2), (torch.ones(3, 4),), {})
        >>> costs_of({}, trace, Work((Term("weight", 3),))).after({})
        Cost(params=10, macs=24, bytes=40)
    """
    places: dict[str, list[dict[str, int]]] = {
        name: [{} for _ in shape] for name, shape in trace.shapes.items()
    }
    for name, group in groups.items():
        for part in group.slices:
            of = places[part.parameter][part.dim]
            of[name] = of.get(name, 0) + part.index.shape[1]
    return Costs(
        sides={name: (shape, tuple(places[name])) for name, shape in trace.shapes.items()},
        work=work,
        widths=_widths(trace),
        counted=frozenset(trace.shapes) - trace.buffers,
        shares=tuple(_repeated(term, groups) for term in work.terms),
        units={name: group.units for name, group in groups.items()},
    )


def _repeated(term: Term, groups: Mapping[str, Group]) -> tuple[str, ...]:
    """Return the groups for whose channels a multiplication is repeated.

    Products of attention are repeated for each head; and a weight is for each channel where it reads along
    another dimension, as one that mixes tokens.
    """
    return tuple(
        name
        for name, group in groups.items()
        if term.made & written_by(group) and all(part.parameter != term.weight for part in group.slices)
    )


def written_by(group: Group) -> frozenset[str]:
    """Return the parameters that produce a group's channels.

    Example:
        >>> import torch
        >>> from tonsor.shrink import Slice
        >>> rows = Slice("w", 0, "producer", torch.tensor([[0], [1]]))
        >>> sorted(written_by(Group("w", 2, (rows,), 2, "", torch.tensor([1, 2]))))
        ['w']
    """
    return frozenset(
        part.parameter for part in group.slices if part.role in ("producer", "both", "direction")
    )


KINDS = ("inner", "residual", "heads", "head_dim")


def kind_of(group: Group, work: Work) -> str:
    """Return what a group's units are: one of `KINDS`.

    "residual" channels are written by sums of computed values (the width of a residual stream); "heads"
    are attention heads; "head_dim" their channels; all others are "inner": feed-forward units, channels
    between two convolutions.

    Example:
        >>> import torch
        >>> from tonsor.shrink import Slice
        >>> rows = Slice("w", 0, "producer", torch.tensor([[0], [1]]))
        >>> group = Group("w", 2, (rows,), 2, "", torch.tensor([1, 2]))
        >>> kind_of(group, Work()), kind_of(group, Work(added=frozenset({"w"})))
        ('inner', 'residual')
    """
    made = written_by(group)
    if made & work.added:
        return "residual"
    if not made & work.attended:
        return "inner"
    own: Sequence[int] = next(
        p.index[0].tolist() for p in group.slices if p.parameter in made & work.attended
    )
    return "heads" if len(own) > 1 and own[1] == own[0] + 1 else "head_dim"


def _widths(trace: Trace) -> dict[str, int]:
    """Return the bytes of an element of each tensor; what the graph does not use is taken for float32."""
    found = dict.fromkeys(trace.shapes, 4)
    for node in trace.graph.nodes:
        if node.op == "placeholder" and node.name in trace.sources:
            found[trace.sources[node.name]] = node.meta["val"].element_size()
    return found
