"""What a rule sees of a parameter: its weight, its gradient, and how a number a slice is put upon it."""

from collections.abc import Sequence
from itertools import count, repeat
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tonsor.sharded import Reduce, is_sharded, locals_of, over_mesh

HALF = (torch.float16, torch.bfloat16)


class Part(NamedTuple):
    """A distinct parameter of the list a rule was given; of a sharded one what this process holds.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> [(part.place, part.grad) for part in parts_of([w, torch.zeros(1), w])]
        [(0, tensor([3., 4.])), (1, None)]
    """

    place: int  # where it first stands in the given list
    parameter: Tensor  # as it was given
    given: Tensor | None  # its gradient as it was given; the values where it is sparse
    weight: Tensor  # here
    grad: Tensor | None  # here; shares the gradient's memory
    indices: Tensor | None  # where the values of a sparse gradient belong


def parts_of(parameters: Sequence[Tensor], /) -> list[Part]:
    """Return the distinct parameters with their gradients, the sparse ones coalesced.

    Args:
        parameters: Leaf tensors, possibly repeated; `None` and sparse gradients are welcome.

    Returns:
        One part for each distinct parameter, in order, also for those without a gradient.

    Example:
        >>> len(parts_of([torch.zeros(1), torch.zeros(1)]))
        2
    """
    given = list(parameters)
    grads = list(map(attrgetter("grad"), given))
    is_plain = set(map(type, grads)) == {Tensor} and len(set(map(id, given))) == len(given)
    if is_plain and not any(
        map(attrgetter("is_sparse"), grads)
    ):  # a thousand at once, without a question each
        is_bare = not any(map(attrgetter("requires_grad"), grads))
        bare = grads if is_bare else list(map(Tensor.detach, grads))
        weights = map(Tensor.detach, given)
        return list(map(Part, count(), given, bare, weights, bare, repeat(None)))
    first: dict[int, tuple[int, Tensor]] = {}
    for place, parameter in enumerate(given):
        first.setdefault(id(parameter), (place, parameter))
    return [_part(place, parameter) for place, parameter in first.values()]


def _part(place: int, parameter: Tensor) -> Part:
    """Return what is to be seen of one parameter."""
    grad = parameter.grad
    if grad is None:
        return Part(place, parameter, None, locals_of([parameter.detach()])[0], None, None)
    indices = None
    if grad.is_sparse:
        parameter.grad = grad = grad.coalesce()
        grad, indices = grad._values(), grad._indices()
    weight, here = locals_of([parameter.detach(), grad.detach()])
    return Part(place, parameter, grad.detach(), weight, here, indices)


def grads_of(parts: Sequence[Part], /) -> list[Tensor]:
    """Return the gradients there are, as they were given.

    Example:
        >>> grads_of(parts_of([torch.zeros(1)]))
        []
    """
    return [part.given for part in parts if part.given is not None]


def sharding(part: Part, kept: Sequence[int] = (), /) -> tuple[Any, tuple[int, ...]]:
    """Return the mesh of a sharded parameter, and which of its dimensions cut another than the kept ones.

    Example:
        >>> sharding(parts_of([torch.zeros(1)])[0])
        (None, ())
    """
    if not is_sharded(part.parameter):
        return None, ()
    kinds: Sequence[Any] = part.parameter.placements  # type: ignore[attr-defined]
    cuts = tuple(i for i, kind in enumerate(kinds) if kind.is_shard() and kind.dim not in kept)
    return part.parameter.device_mesh, cuts  # type: ignore[attr-defined]


def joined(parts: Sequence[Part], values: Sequence[Tensor], how: Reduce, /) -> list[Tensor]:
    """Return 0-dim values of what is here, a value a part, added or compared over the meshes.

    Those of one mesh go in one message.

    Example:
        >>> joined(parts_of([torch.zeros(1)]), [torch.tensor(2.0)], "sum")
        [tensor(2.)]
    """
    found = list(values)
    together: dict[tuple[Any, tuple[int, ...]], list[int]] = {}
    for i, part in enumerate(parts):
        mesh, cuts = sharding(part)
        if cuts:
            together.setdefault((mesh, cuts), []).append(i)
    for (mesh, cuts), places in together.items():
        message = torch.stack([found[i] for i in places])
        for i, value in zip(places, over_mesh(mesh, [(cuts, message)], how), strict=True):
            found[i] = value
    return found


def anywhere(parts: Sequence[Part], flag: Tensor, /) -> Tensor:
    """Return whether a 0-dim flag is true in any process that holds a shard of the parameters.

    Example:
        >>> anywhere(parts_of([torch.zeros(1)]), torch.tensor(True))
        tensor(True)
    """
    for mesh in {sharding(part)[0]: None for part in parts if is_sharded(part.parameter)}:
        flag = over_mesh(mesh, [(tuple(range(mesh.ndim)), flag.float())], "max") > 0
    return flag


def dense(part: Part, /) -> Tensor:
    """Return the gradient in the weight's shape and at least float32; a sparse one is spread out.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> dense(parts_of([w])[0])
        tensor([3., 4.])
    """
    grad = torch.zeros_like(part.weight) if part.grad is None else part.grad
    if part.indices is not None:
        grad = torch.sparse_coo_tensor(
            part.indices, grad, part.weight.shape, is_coalesced=True, check_invariants=False
        ).to_dense()
    return grad.float() if grad.dtype in HALF else grad


def split(numbers: Tensor, counts: Sequence[int], /) -> tuple[Tensor, ...]:
    """Return one number a unit, parameter by parameter.

    Example:
        >>> split(torch.tensor([1.0, 2.0, 3.0]), [1, 2])
        (tensor([1.]), tensor([2., 3.]))
        >>> split(torch.tensor(1.0), [1, 2])
        (tensor([1.]), tensor([1., 1.]))
    """
    return tuple(torch.split(numbers.expand(sum(counts)), list(counts)))


def multiply_(part: Part, factor: Tensor, /) -> None:
    """Multiply the gradient in place, in float32 where it is of half precision.

    Args:
        part: Has a gradient.
        factor: Broadcasts with the weight.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> multiply_(parts_of([w])[0], torch.tensor([1.0, 0.5])); w.grad
        tensor([3., 2.])
    """
    if part.grad is not None:
        part.grad.mul_(_fitted(part, factor, part.grad))


def clamp_(part: Part, bound: Tensor, /) -> None:
    """Clamp every element of the gradient to its bound, in place; of a complex one both its parts.

    Args:
        part: Has a gradient.
        bound: Broadcasts with the weight.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.tensor([3.0, -4.0])
        >>> clamp_(parts_of([w])[0], torch.tensor(2.0)); w.grad
        tensor([ 2., -2.])
    """
    if part.grad is None:
        return
    bound = _fitted(part, bound, part.grad).to(part.grad.real.dtype)
    if part.grad.is_complex():
        torch.view_as_real(part.grad).clamp_(-bound.unsqueeze(-1), bound.unsqueeze(-1))
    else:
        part.grad.clamp_(-bound, bound)


def _fitted(part: Part, number: Tensor, grad: Tensor) -> Tensor:
    """Return numbers that broadcast with the weight as they broadcast with the stored gradient.

    Half precision gets float32 of one dimension at least: a scalar tensor would be rounded to half
    precision first, where a small factor becomes zero.
    """
    is_wide = grad.dtype in (torch.float64, torch.complex128)
    number = number.to(grad.device, torch.float64 if is_wide else torch.float32)
    if part.indices is not None and number.ndim:
        number = number.expand(part.weight.shape)[tuple(part.indices)]
    return number.reshape(1) if number.ndim == 0 and grad.ndim else number
