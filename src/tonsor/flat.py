"""Tensors that lie side by side in one buffer, taken as one: a call for a thousand."""

from collections.abc import Sequence
from itertools import accumulate
from operator import add, attrgetter

import torch
from torch import Tensor
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

PROBE = 16  # where none of so many has a neighbour, a long list is not searched further
_PLAIN = ({Tensor}, {torch.nn.Parameter}, {Tensor, torch.nn.Parameter})
_bytes, _type = (
    attrgetter("nbytes"),
    attrgetter("dtype"),
)  # read in C: a loop in Python takes three times as long


def flat_views(tensors: Sequence[Tensor], /) -> list[Tensor]:
    """Return as few tensors as hold the same memory: neighbours of one type become one flat view.

    The gradients of DDP's buckets, of FSDP's shards and of any flat buffer lie side by side. A thousand
    of them cost a thousand calls one by one, and one call as a view. What is no plain tensor (sharded,
    fake, traced by the compiler) or has no neighbour is returned as it is; and so is a long list of whose
    first sixteen none has a neighbour among them.

    Args:
        tensors: Tensors of any shape and type, on any devices, in any order.

    Returns:
        Tensors that share the memory of those given; changing one in place changes the other.

    Example:
        >>> buffer = torch.arange(6.0)
        >>> flat_views([buffer[:2], buffer[2:6].view(2, 2)])
        [tensor([0., 1., 2., 3., 4., 5.])]
    """
    if len(tensors) < 2 or torch.compiler.is_compiling() or set(map(type, tensors)) not in _PLAIN:
        return list(tensors)
    if len(tensors) > 2 * PROBE and len(flat_views(tensors[:PROBE])) == PROBE:
        return list(tensors)
    starts, sizes = list(map(Tensor.data_ptr, tensors)), list(map(_bytes, tensors))
    if _is_one_run(tensors, starts, sizes):
        return [_as_one(tensors[0], sum(sizes))]
    if set(starts).isdisjoint(map(add, starts, sizes)):
        return list(tensors)
    return _runs(tensors, starts, sizes)


def in_one_run(tensors: Sequence[Tensor], /) -> Tensor | None:
    """Return the vector that holds tensors of one type, one after the other in their order, without a gap.

    Args:
        tensors: Tensors of any shape.

    Returns:
        A vector that shares their memory; None where they lie otherwise, or are no plain tensors.

    Example:
        >>> buffer = torch.arange(4.0)
        >>> in_one_run([buffer[:2], buffer[2:]]), in_one_run([buffer[2:], buffer[:2]])
        (tensor([0., 1., 2., 3.]), None)
    """
    if not tensors or torch.compiler.is_compiling() or set(map(type, tensors)) not in _PLAIN:
        return None
    if len(tensors) > 2 * PROBE and in_one_run(tensors[:PROBE]) is None:
        return None
    starts, sizes = list(map(Tensor.data_ptr, tensors)), list(map(_bytes, tensors))
    return _as_one(tensors[0], sum(sizes)) if _is_one_run(tensors, starts, sizes) else None


def alike(tensors: Sequence[Tensor], /) -> list[list[Tensor]]:
    """Return the tensors in lists of one device and type.

    Args:
        tensors: Tensors of any device and type.

    Returns:
        The lists, in the order of their first tensors where the compiler does not look.

    Example:
        >>> alike([torch.ones(1), torch.zeros(1)])
        [[tensor([1.]), tensor([0.])]]
    """
    if not tensors:
        return []
    groups = _group_tensors_by_device_and_dtype([list(tensors)])
    return [list(same) for (same,), _ in groups.values()]  # type: ignore[arg-type]


def _runs(tensors: Sequence[Tensor], starts: list[int], sizes: list[int]) -> list[Tensor]:
    """Return a view of each run of neighbours, in the order given: addresses differ from run to run."""
    runs: list[list[int]] = []
    last = end = limit = -1
    for i in sorted(range(len(tensors)), key=starts.__getitem__):
        after = starts[i] + sizes[i]
        if sizes[i] and starts[i] == end and after <= limit and _match(tensors[last], tensors[i]):
            runs[-1].append(i)
        else:
            runs.append([i])
            limit = _limit(tensors[i])
        last, end = i, after
    return [
        _as_one(tensors[run[0]], sum(sizes[i] for i in run)) if len(run) > 1 else tensors[run[0]]
        for run in sorted(runs, key=min)
    ]


def _is_one_run(tensors: Sequence[Tensor], starts: list[int], sizes: list[int]) -> bool:
    """Say whether all lie in order and without a gap: the common case, told in C."""
    *ends, last = accumulate(sizes, initial=starts[0])
    return (
        ends == starts
        and last <= _limit(tensors[0])
        and len(set(map(_type, tensors))) == 1
        and all(map(Tensor.is_contiguous, tensors))
    )


def _limit(tensor: Tensor) -> int:
    """Return the address where the tensor's storage ends."""
    storage = tensor.untyped_storage()
    return storage.data_ptr() + storage.nbytes()


def _match(left: Tensor, right: Tensor) -> bool:
    """Say whether two neighbours can be one vector."""
    return left.dtype == right.dtype and left.is_contiguous() and right.is_contiguous()


def _as_one(first: Tensor, size: int) -> Tensor:
    """Return the view over a run that starts with this tensor and has so many bytes."""
    with torch.no_grad():
        return first.as_strided((size // first.itemsize,), (1,))
