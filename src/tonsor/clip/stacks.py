"""Units of several gradients at once: one call measures, or scales, a thousand small tensors."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tonsor.clip.parts import HALF, Part, multiply_
from tonsor.clip.sizes import By
from tonsor.clip.units import Units
from tonsor.tensors import BLOCK, ONE_PASS, can_look, in_one_run

SPARSE = 4  # one row in so many is copied out and back at less than the cost of a pass over all


def stacked(parts: Sequence[Part], units: Units, by: By) -> Tensor:
    """Return one number a unit of parts that are alike, shape (parts, units): a call for all of them."""
    tensors = [part.grad for part in parts if part.grad is not None]
    shape, run = tensors[0].shape, in_one_run(tensors)
    size = max(1, BLOCK // max(1, shape.numel()))
    room = tensors[0].new_empty((min(size, len(tensors)) if run is None else 0, *shape))
    blocks = (tensors[start : start + size] for start in range(0, len(tensors), size))
    kept = {0} | {dim % len(shape) + 1 for dim in units.dims}
    stacks = (torch.stack(block, out=room[: len(block)]) for block in blocks)
    whole: Iterable[Tensor] = stacks if run is None else [run.view(-1, *shape)]
    sizes = torch.cat([sized(block, kept, by).view(len(block), -1) for block in whole])
    return meant(sizes, parts[0], units, by)


def sized(tensor: Tensor, kept: set[int], by: By) -> Tensor:
    """Return norm or largest element over the dimensions that are not kept, at least in float32."""
    tensor = tensor.float() if tensor.dtype in HALF else tensor
    dims = tuple(dim for dim in range(tensor.ndim) if dim not in kept)
    if not dims:
        return tensor.abs()
    if by == "max" and tensor.numel():
        return tensor.abs().amax(dims)
    sizes: Tensor = torch.linalg.vector_norm(tensor, dim=dims)
    return sizes


def meant(sizes: Tensor, part: Part, units: Units, by: By) -> Tensor:
    """Return the norms, divided by the root of a unit's elements where that is wished."""
    count = part.parameter.numel() // max(1, units.shape(part.parameter).numel())
    return sizes / math.sqrt(max(1, count)) if by == "rms" else sizes


def scale_alike_(parts: Sequence[Part], factors: Tensor | list[Tensor], shape: torch.Size) -> None:
    """Multiply the gradients of parts that are alike, each by numbers that broadcast with it."""
    tensors = [part.grad for part in parts if part.grad is not None]
    stacked = factors if isinstance(factors, Tensor) else torch.cat(factors)
    stacked, run = stacked.to(tensors[0].device).view(-1, *shape), in_one_run(tensors)
    if run is None:
        torch._foreach_mul_(tensors, list(stacked.unbind()))
    else:
        run.view(-1, *tensors[0].shape).mul_(stacked)


def multiply_rows_(part: Part, factor: Tensor) -> None:
    """Multiply a gradient by a number a unit; on the CPU of a large one only the rows that change."""
    grad = part.grad
    if grad is None or not can_look(factor) or grad.numel() < ONE_PASS or factor.numel() != len(grad):
        multiply_(part, factor)
        return
    rows = (factor.flatten() != 1).nonzero().flatten()
    if SPARSE * len(rows) > len(grad) or part.indices is not None or not can_look(grad):
        multiply_(part, factor)
        return
    kept = part._replace(grad=grad.index_select(0, rows))
    multiply_(kept, factor.index_select(0, rows))
    grad.index_copy_(0, rows, kept.grad)  # type: ignore[arg-type]
