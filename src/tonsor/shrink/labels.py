"""Labels: one integer for each channel of each weight, joined where two channels are one."""

import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from tonsor.shrink.compact import unspread
from tonsor.shrink.freedom import Freedom

THROUGH, PRODUCER, CONSUMER = 0, 1, 2  # what a weight's slice does to its channel; 3 is both
DIRECTION = 4  # and what is divided by its own length: it is sliced, but never set to zero
INNER = "inside a kernel"  # the reason of dimensions that are no channels: they are not reported

UNUSED = "no layer makes or reads it"
MEASURED = "nothing but a statistic reads it"


def varying(layer: Tensor) -> set[int]:
    """Return the dimensions along which a compact layer is not constant."""
    return {dim for dim, size in enumerate(layer.shape) if size > 1}


class Labels:
    """Remember which labels are one, which must stay and why, and what their slices do.

    A layer is an integer tensor that can be broadcast to the shape of a value: the label of each
    element, 0 where it has none. Size 1 means that the label does not vary along that dimension, so
    a layer takes the memory of its channels and not of its value. All operations are vectorised.

    Example:
        >>> labels = Labels()
        >>> a, b = labels.new(2), labels.new(2)
        >>> labels.join(a, b)
        >>> labels.freeze(b[:1], "model output")
        >>> labels.find(b).tolist(), labels.reason_of_root()[a].tolist()
        ([1, 2], [1, 0])
    """

    def __init__(self) -> None:
        self.root = torch.zeros(1, dtype=torch.int64)  # of each label one it is joined with, see `find`
        self.reason = torch.zeros(1, dtype=torch.int64)  # of each label the index of why it stays
        self.role = torch.zeros(1, dtype=torch.int64)
        self.reasons = [""]
        self.bound = sys.maxsize  # labels from here on belong to no parameter or buffer
        self.weak = sys.maxsize  # labels from here on belong to no parameter
        self.grids: list[Tensor] = []  # layers that must become sliceable, see `square`
        self.freedom = Freedom()
        self.measured: list[Tensor] = []  # layers of which a statistic was taken over what stays

    def new(self, count: int) -> Tensor:
        """Return `count` fresh labels."""
        start = len(self.root)
        fresh = torch.arange(start, start + count)
        none = torch.zeros_like(fresh)
        self.root = torch.cat([self.root, fresh])
        self.reason = torch.cat([self.reason, none])
        self.role = torch.cat([self.role, none])
        return fresh

    def join(self, a: Tensor, b: Tensor) -> None:
        """Make the labels one, element by element; where either is 0 nothing happens."""
        a, b = _broadcast(a, b)
        both = (a > 0) & (b > 0)
        a, b = self.find(a[both]), self.find(b[both])
        while True:
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            self.root.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
            a, b = self.find(a), self.find(b)

    def find(self, labels: Tensor) -> Tensor:
        """Return the smallest label that each is joined with, and remember it."""
        found = self.root.take(labels)
        above = self.root.take(found)
        if torch.equal(above, found):
            return found
        while not torch.equal(above, found):
            found, above = above, self.root.take(above)
        self.root[labels] = found
        return found

    def flatten(self) -> Tensor:
        """Let every label point at its root directly; return the roots."""
        return self.find(torch.arange(len(self.root)))

    def freeze(self, layer: Tensor, reason: str) -> None:
        """Let the labels stay, and keep the first reason why."""
        labels = layer[layer > 0]
        fresh = labels[self.reason[labels] == 0]
        if not len(fresh):
            return
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason[fresh] = self.reasons.index(reason)

    def reason_of_root(self) -> Tensor:
        """Return for each root the index of the first reason that one of its labels has, else 0."""
        late = len(self.reasons)
        reason = torch.where(self.reason > 0, self.reason, late)
        first = torch.full_like(reason, late).scatter_reduce_(0, self.flatten(), reason, "amin")
        return torch.where(first == late, 0, first)

    def mark(self, layer: Tensor, role: int) -> None:
        """Note what the slices behind the labels do."""
        self.role[layer.reshape(-1)] |= role

    def still(self) -> None:
        """Freeze what no weight makes or reads, as places in a table of which the example uses some.

        What only a statistic reads stays too: nothing would say whether it is needed.
        """
        roots = self.flatten()
        used = torch.zeros_like(roots, dtype=torch.bool)
        used[roots[self.role > 0]] = True
        self.freeze((~used[roots]).nonzero().flatten(), UNUSED)
        read = torch.zeros_like(used)
        read[roots[(self.role & CONSUMER) > 0]] = True
        for layer in self.measured:
            labels = layer[layer > 0]
            self.freeze(labels[~read[roots[labels]]], MEASURED)

    def tidy(self, layer: Tensor) -> Tensor:
        """Return the layer in roots, of size 1 along the dimensions where it does not vary."""
        layer = self.find(unspread(layer))
        for dim in range(layer.ndim):
            first = layer.narrow(dim, 0, 1) if layer.shape[dim] else layer
            if layer.shape[dim] > 1 and bool((layer == first).all()):
                layer = first
        return layer

    def meet(self, a: Tensor, b: Tensor, reason: str) -> Tensor:
        """Join two layers; a label that meets no label cannot be sliced away there and is frozen."""
        a, b = _broadcast(a, b)
        self.join(a, b)
        both = torch.maximum(a, b)
        self.freeze(both[(a == 0) != (b == 0)], reason)
        return both

    def loose(self, layer: Tensor, bound: int | None = None) -> bool:
        """Say whether all labels are joined with none below a bound, as on a tensor made by `zeros`."""
        own = self.find(layer[layer > 0])
        return bool((own >= (self.bound if bound is None else bound)).all())

    def apart(self, layers: Iterable[Tensor], reason: str) -> tuple[Tensor, ...]:
        """Return layers of which no two vary along one dimension: of two the inner one is frozen and dropped.

        Heads that a reshape lays beside what is inside them can then go as before.
        """
        kept: list[Tensor] = []
        for layer in sorted(layers, key=self._restless):
            if any(varying(layer) & varying(other) for other in kept):
                self.freeze(layer, reason)
            else:
                kept.append(layer)
        return tuple(kept)

    def _restless(self, layer: Tensor) -> int:
        """Return how often the label changes along a layer; frozen ones come last."""
        own = self.find(layer)
        changes = sum(int((own.diff(dim=dim) != 0).sum()) for dim in varying(layer))
        return changes if bool((self.reason[layer] == 0).any()) else sys.maxsize

    def settle(self, layer: Tensor, dims: Iterable[int], reason: str) -> Tensor:
        """Let no label be sliced away along these dimensions.

        A layer that varies along others too is joined along these: heads are removed whole. One that
        varies along these alone is frozen.
        """
        layer = self.tidy(layer)
        inside = varying(layer) & set(dims)
        if inside and inside == varying(layer):
            self.freeze(layer, reason)
            return layer
        for dim in inside:
            self.meet(layer, layer.narrow(dim, 0, 1), reason)
        return self.tidy(layer)

    def along(self, layers: Iterable[Tensor], dim: int, size: int, reason: str) -> Tensor:
        """Return the labels along one dimension, 0 where there are none; along the rest they are joined."""
        found = torch.zeros(size, dtype=torch.int64)
        for layer in map(self.tidy, layers):
            if dim not in varying(layer):
                continue
            for other in varying(layer) - {dim}:
                self.meet(layer, layer.narrow(other, 0, 1), reason)
            line = layer.movedim(dim, 0).reshape(size, -1)[:, 0]
            found = self.meet(found, line, reason) if found.any() else line
        return found

    def square(self) -> None:
        """Join what a view has split, so that whole slices remain.

        A grid that varies along two dimensions, as (groups, channels) does before a shuffle, can only
        lose whole rows or whole columns. It is joined along its shortest side: that leaves most groups.
        """
        again = True
        while again:
            again = False
            for grid in map(self.tidy, self.grids):
                sides = varying(grid)
                if len(sides) > 1:
                    self.settle(grid, [min(sides, key=lambda dim: grid.shape[dim])], "a split")
                    again = True


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors in their common shape."""
    both = a + b
    return a.expand_as(both), b.expand_as(both)
