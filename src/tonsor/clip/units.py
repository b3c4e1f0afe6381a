"""Which slices of a weight are its units, and which parts have the same ones and can be taken together."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tonsor.clip.parts import Part
from tonsor.sharded import is_sharded
from tonsor.tensors import ONE_PASS

_ALIKE = attrgetter("shape", "dtype", "device")  # read in C: a loop in Python takes three times as long


class Units(NamedTuple):
    """Which slices of a weight are its units.

    Example:
        >>> Units((1,)).shape(torch.zeros(3, 4, 5))   # a transposed convolution: one unit an output channel
        torch.Size([1, 4, 1])
    """

    dims: tuple[int, ...] = (0,)  # what indexes the units; a unit's norm goes over the other dimensions
    groups: int = 1  # dimension 0 is first split into (groups, -1): a grouped transposed convolution

    def view(self, tensor: Tensor, /) -> Tensor:
        """Return the tensor with dimension 0 split into groups, if there are any."""
        return torch.unflatten(tensor, 0, (self.groups, -1)) if self.groups > 1 else tensor

    def shape(self, weight: Tensor, /) -> torch.Size:
        """Return the shape of one number a unit that broadcasts with the viewed weight."""
        sizes = self.view(weight).shape
        kept = {dim % len(sizes) for dim in self.dims} if sizes else set()
        return torch.Size([size if dim in kept else 1 for dim, size in enumerate(sizes)])


UnitDim = int | tuple[int, ...] | Callable[[Tensor], Units | None]


class Together(NamedTuple):
    """Parts whose units are alike: small ones of one shape and type, or a single one of any kind."""

    units: Units | None  # None: left alone
    each: int  # how many units a part has
    places: list[int]  # which of the given parts


def units_of(unit_dim: UnitDim, weight: Tensor, /) -> Units | None:
    """Return the units of a weight, None where it is to be left alone.

    Raises:
        ValueError: If the units of a sharded weight are not whole.

    Example:
        >>> units_of(0, torch.zeros(3, 2)), units_of((0, 1), torch.zeros(3))
        (Units(dims=(0,), groups=1), Units(dims=(), groups=1))
    """
    found = unit_dim(weight) if callable(unit_dim) else unit_dim
    if isinstance(found, Units) and found.groups > 1 and is_sharded(weight):
        raise ValueError("clip.PerUnit: a grouped transposed convolution that is sharded has no whole units")
    if found is None or isinstance(found, Units):
        return found if found is None or weight.ndim > 1 else Units(())
    dims = (found,) if isinstance(found, int) else tuple(found)
    return Units(dims if weight.ndim > 1 else ())


def together(parts: Sequence[Part], unit_dim: UnitDim, /) -> list[Together]:
    """Return the parts in lists that can be measured and scaled in one call, in the order of their first.

    Example:
        >>> from tonsor.clip.parts import parts_of
        >>> weights = [torch.ones(2, 3, requires_grad=True) for _ in range(3)]
        >>> for weight in weights[1:]: weight.grad = torch.ones(2, 3)
        >>> [(group.places, group.each) for group in together(parts_of(weights), 0)]
        [([0], 2), ([1, 2], 2)]
    """
    found: dict[Any, list[int]] = {}
    for i, key in enumerate(_keys(parts, unit_dim)):
        found.setdefault(key, []).append(i)
    told = []
    for key, places in found.items():
        first = parts[places[0]]
        units = units_of(unit_dim, first.parameter)
        each = 0 if units is None else units.shape(first.weight).numel()
        is_small = not isinstance(key, int) and key[0].numel() < ONE_PASS
        told += [Together(units, each, same) for same in ([places] if is_small else [[i] for i in places])]
    return told


def _keys(parts: Sequence[Part], unit_dim: UnitDim) -> Iterable[Any]:
    """Return what plain parts that are alike have in common; of any other part its own number."""
    if callable(unit_dim) or not all(map(_is_plain, parts)):
        return [
            (*_ALIKE(part.grad), own) if _is_plain(part) and (own is None or own.groups == 1) else i
            for i, part in enumerate(parts)
            for own in [units_of(unit_dim, part.parameter)]
        ]
    return map(_ALIKE, map(attrgetter("grad"), parts))


def _is_plain(part: Part) -> bool:
    """Return whether a part has a gradient that is neither sparse nor sharded."""
    return type(part.given) is Tensor and part.indices is None
