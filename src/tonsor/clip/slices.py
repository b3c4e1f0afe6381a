"""Measure slices of each gradient: the units of a layer, or single elements."""

from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import Tensor

from tonsor.clip.parts import Part, clamp_, dense, grads_of, multiply_, sharding, split
from tonsor.clip.sizes import By, checked
from tonsor.clip.stacks import meant, multiply_rows_, scale_alike_, sized, stacked
from tonsor.clip.units import Together, UnitDim, Units, together, units_of
from tonsor.sharded import over_mesh
from tonsor.tensors import can_look, joint_norm


class PerUnit:
    """Measure each unit of each gradient: a row of a linear layer, a filter of a convolution.

    A parameter of fewer than two dimensions (a bias, a scale) is one unit.

    Args:
        unit_dim: Which dimension indexes the units, or several: 0 suits `Linear`, `Conv1d` to `Conv3d`
            and `Embedding`; 1 a transposed convolution; (0, 1) experts stacked as (expert, out, in). For
            a model that has several kinds, a function from a parameter to its `Units`, such as
            `tonsor.clip.unit_dims(model)`; it returns None for a parameter to be left alone.
        by: As for `Whole`.

    Raises:
        ValueError: If `by` is not known.

    Example:
        >>> from tonsor.clip.parts import parts_of
        >>> w = torch.ones(2, 2, requires_grad=True); w.grad = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> PerUnit().norms(parts_of([w])), PerUnit(unit_dim=1).norms(parts_of([w]))
        (tensor([5., 2.]), tensor([3.0000, 4.4721]))
    """

    def __init__(self, *, unit_dim: UnitDim = 0, by: By = "norm") -> None:
        self.unit_dim = unit_dim
        self.by = checked("PerUnit", by)

    def norms(self, parts: Sequence[Part], /) -> Tensor:
        """Return one number a unit, those of all parameters in order."""
        found: dict[int, Tensor] = {}
        for group in together(parts, self.unit_dim):
            if len(group.places) == 1 or group.units is None:
                found |= {i: self._measured(parts[i], group.units) for i in group.places}
                continue
            rows = stacked([parts[i] for i in group.places], group.units, self.by)
            if len(rows) == len(parts):
                return rows.flatten()
            found |= zip(group.places, rows.unbind(), strict=True)
        return torch.cat(_on_one_device([found[i] for i in range(len(parts))]))

    def joint(self, parts: Sequence[Part], norms: Tensor, /) -> Tensor:
        """Return the joint 2-norm of all gradients."""
        if self.by != "norm":
            return joint_norm(grads_of(parts))
        is_plain = set(map(type, map(attrgetter("given"), parts))) <= {Tensor, type(None)}
        if not is_plain and any(sharding(part)[1] for part in parts):  # units of other processes count too
            return joint_norm(grads_of(parts))
        total = norms.double().square().sum()
        if callable(self.unit_dim):  # else no part is left alone
            alone = [part for part in parts if units_of(self.unit_dim, part.parameter) is None]
            total = total + joint_norm(grads_of(alone)).to(norms.device).double().square()
        return total.sqrt()

    def scale_(self, parts: Sequence[Part], factors: Tensor, /) -> None:
        """Multiply each unit by its factor; on the CPU only gradients are written that have one to change."""
        groups = together(parts, self.unit_dim)
        counts = _counts(groups, len(parts))
        changed, pieces = _changed(factors, counts), split(factors, counts)
        for group in groups:
            places = [i for i in group.places if i in changed]
            if len(places) > 1 and group.units is not None:
                shape = group.units.shape(parts[places[0]].weight)
                own = factors if group.each * len(places) == len(factors) else [pieces[i] for i in places]
                scale_alike_([parts[i] for i in places], own, shape)
                continue
            for i in places:
                self._put(multiply_rows_, parts[i], group.units, pieces[i])

    def clamp_(self, parts: Sequence[Part], bounds: Tensor, /) -> None:
        """Clamp the elements of each unit to its bound, in place."""
        groups = together(parts, self.unit_dim)
        pieces = split(bounds, _counts(groups, len(parts)))
        for group in groups:
            for i in group.places:
                self._put(clamp_, parts[i], group.units, pieces[i])

    def _measured(self, part: Part, units: Units | None) -> Tensor:
        """Return one number for each unit of one parameter."""
        if units is None or part.grad is None:
            count = 0 if units is None else units.shape(part.weight).numel()
            return part.weight.new_zeros(count, dtype=torch.float32)
        if part.indices is not None and units == Units() and len(part.indices) == 1:
            rows = _reduced(part, part.grad, units, self.by)
            return rows.new_zeros(len(part.weight)).index_copy_(0, part.indices[0], rows)
        return _reduced(part, dense(part), units, self.by)

    def _put(
        self, change: Callable[[Part, Tensor], None], part: Part, units: Units | None, piece: Tensor
    ) -> None:
        """Scale or clamp the gradient of one parameter by one number a unit."""
        if units is None or part.grad is None:
            return
        piece = piece.view(units.shape(part.weight))
        if part.indices is None:
            part = part._replace(weight=units.view(part.weight), grad=units.view(part.grad))
        elif units.groups > 1:
            piece = piece.expand(units.view(part.weight).shape).reshape(part.weight.shape)
        change(part, piece)

    def __repr__(self) -> str:
        return f"PerUnit(unit_dim={self.unit_dim!r}, by={self.by!r})"


class PerElement:
    """Measure every element of each gradient by itself: its size.

    It takes as much memory as the gradients do; for a fixed bound `tonsor.clip.value` takes none.

    Example:
        >>> from tonsor.clip.parts import parts_of
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.tensor([3.0, -4.0])
        >>> PerElement().norms(parts_of([w]))
        tensor([3., 4.])
    """

    def norms(self, parts: Sequence[Part], /) -> Tensor:
        """Return one number an element, those of all parameters in order."""
        return torch.cat(_on_one_device([dense(part).abs().flatten() for part in parts]))

    def joint(self, parts: Sequence[Part], norms: Tensor, /) -> Tensor:
        """Return the joint 2-norm of all gradients."""
        return joint_norm(grads_of(parts))

    def scale_(self, parts: Sequence[Part], factors: Tensor, /) -> None:
        """Multiply each element by its factor, in place."""
        self._put(multiply_, parts, factors)

    def clamp_(self, parts: Sequence[Part], bounds: Tensor, /) -> None:
        """Clamp each element to its bound, in place."""
        self._put(clamp_, parts, bounds)

    def _put(self, change: Callable[[Part, Tensor], None], parts: Sequence[Part], numbers: Tensor) -> None:
        """Scale or clamp the gradients by one number an element."""
        for part, piece in zip(parts, split(numbers, [p.weight.numel() for p in parts]), strict=True):
            change(part, piece.view(part.weight.shape))

    def __repr__(self) -> str:
        return "PerElement()"


def _reduced(part: Part, tensor: Tensor, units: Units, by: By) -> Tensor:
    """Return one number a unit as a vector, of a tensor in the weight's shape or of some of its rows."""
    viewed = units.view(tensor)
    kept = {dim % viewed.ndim for dim in units.dims} if viewed.ndim else set()
    sizes = sized(viewed, kept, by)
    mesh, cuts = sharding(part, tuple(kept))
    if cuts and by == "max":
        sizes = over_mesh(mesh, [(cuts, sizes)], "max")
    elif cuts:
        sizes = over_mesh(mesh, [(cuts, sizes.double().square())], "sum").sqrt().to(sizes.dtype)
    return meant(sizes, part, units, by).flatten()


def _counts(groups: Sequence[Together], total: int) -> list[int]:
    """Return how many units each part has."""
    counts = [0] * total
    for group in groups:
        for place in group.places:
            counts[place] = group.each
    return counts


def _on_one_device(found: list[Tensor]) -> list[Tensor]:
    """Return all on the device of the first."""
    if len(set(map(attrgetter("device"), found))) < 2:
        return found
    return [each.to(found[0].device) for each in found]


def _changed(factors: Tensor, counts: Sequence[int]) -> set[int]:
    """Return which parameters have a unit whose factor is not 1; all of them where looking would wait."""
    if not can_look(factors):
        return set(range(len(counts)))
    ends = torch.tensor(counts).cumsum(0)
    where = (factors != 1).nonzero().flatten()
    return set(torch.bucketize(where, ends, right=True).tolist())
