"""The norm of a list of tensors: fast, right to 1e-6, over shards, and never waiting for the device."""

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import attrgetter

import torch
from torch import Tensor

from tonsor.flat import alike, flat_views
from tonsor.sharded import Members, Reduce, by_mesh, join, over_mesh

ROW = 2048  # elements a float32 sum may hold: rows are summed apart and combined in float64
SHORT = 2 * ROW  # below it a call costs more than the sum: short tensors are gathered first
BLOCK = 1 << 19  # elements that are gathered or widened at once: 2 MiB stay in the cache
FEW = 8  # tensors of one shape, from which on they are gathered by themselves
BUNCH = BLOCK // SHORT  # how many short tensors never hold more than a block
WIDE = {torch.float64, torch.complex128}
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
WIDEST = {torch.complex64: torch.complex128, torch.complex128: torch.complex128}


def joint_norm(tensors: Sequence[Tensor], /, *, ord: float = 2.0) -> Tensor:
    r"""Return the p-norm of all tensors taken as one vector: :math:`(\sum_i \sum_j |t_{ij}|^p)^{1/p}`.

    Rows of 2048 are summed apart and combined in float64, which costs nothing and keeps the relative
    error of the 2-norm below 1e-6 (of orders torch sums one by one: 2e-5), where one float32 sum over 85
    million elements is wrong by a percent. Half precision is widened block by block, without a copy of
    the whole. On the CPU an overflow or underflow of float32 is repaired in float64; elsewhere looking
    would wait for the device.

    A sharded tensor (DTensor) counts whole: the local sums are added over its mesh, in one message for
    each dimension of the mesh that shards, so every process of the mesh must call this.

    Args:
        tensors: Tensors of any shape and floating or complex type, on any devices. Neighbours in one
            buffer are measured in one call.
        ord: The order p: 2, 1, any other number, `inf` (the largest magnitude), `-inf` (the smallest)
            or 0 (how many are not zero).

    Returns:
        A plain 0-dim tensor on the device of the first: float64 if an input is, else float32. 0 for an
        empty list.

    Raises:
        ValueError: If `ord` is not a number.

    Example:
        >>> joint_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
        >>> joint_norm([torch.tensor([3.0]), torch.tensor([-4.0])], ord=float("inf"))
        tensor(4.)
    """
    if math.isnan(ord):
        raise ValueError(f"joint_norm: ord must be a number, inf or -inf; got {ord}")
    if not tensors:
        return torch.zeros(())
    with torch.no_grad():
        parts = {
            mesh: [(dims, flat_views(held)) for dims, held in members]
            for mesh, members in by_mesh(tensors).items()
        }
        types = {tensor.dtype for members in parts.values() for _, held in members for tensor in held}
        total = _total(parts, ord)
        if not types <= WIDE and _is_doubtful(total, ord) and 0 < _total(parts, math.inf) < math.inf:
            total = _total(parts, ord, widest=True)
        return total if types & WIDE else total.float()


def can_look(value: Tensor, /) -> bool:
    """Say whether a value can be read without waiting: it lies on the CPU, and is neither fake nor traced.

    Args:
        value: Any tensor.

    Returns:
        True where `if value:` costs nothing.

    Example:
        >>> can_look(torch.tensor(1.0)), can_look(torch.empty((), device="meta"))
        (True, False)
    """
    return type(value) is Tensor and value.device.type == "cpu" and not torch.compiler.is_compiling()


def _is_doubtful(total: Tensor, ord: float) -> bool:
    """Say whether powers of float32 may have left its range, where one may look without waiting."""
    if not can_look(total) or ord <= 0 or math.isinf(ord):
        return False
    return bool(total.isinf() or total < 1e-22 ** (1 / ord))


def _total(parts: dict[object, Members], ord: float, *, widest: bool = False) -> Tensor:
    """Return the norm over all meshes in float64, on the device of the first tensor."""
    how: Reduce = "sum" if math.isfinite(ord) else "max" if ord > 0 else "min"
    powers = [
        over_mesh(mesh, [(dims, _power(held, ord, how, widest)) for dims, held in members], how)
        for mesh, members in parts.items()
    ]
    total = join([power.to(powers[0].device) for power in powers], how)
    if ord == 2:
        return total.sqrt()
    return total.pow(1 / ord) if how == "sum" and ord else total


def _power(tensors: list[Tensor], ord: float, how: Reduce, widest: bool) -> Tensor:
    """Return the sum of the p-th powers of all elements, or the largest or smallest magnitude."""
    device = tensors[0].device
    powers = [_combined(same, ord, how, widest).to(device) for same in alike(tensors)]
    return join(powers, how)


def _combined(tensors: list[Tensor], ord: float, how: Reduce, widest: bool) -> Tensor:
    """Return the power of tensors of one device and type: their rows, combined in float64."""
    device = tensors[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPU has no float64
    sizes = list(map(Tensor.numel, tensors))
    if 0 in sizes:
        tensors = [tensor for tensor, size in zip(tensors, sizes, strict=True) if size]
    if not tensors:
        return torch.full((), math.inf if how == "min" else 0.0, dtype=wide, device=device)
    norms = (_row_norms if device.type == "cpu" else _tensor_norms)(tensors, ord, widest).to(wide)
    if how != "sum":
        return norms.amax() if how == "max" else norms.amin()
    if ord == 2:
        return norms.square().sum()
    return norms.pow(ord).sum() if ord else norms.sum()


def _tensor_norms(tensors: list[Tensor], ord: float, widest: bool) -> Tensor:
    """Return the norm of each tensor; an accelerator sums by blocks of its own."""
    return torch.stack(torch._foreach_norm(tensors, ord, dtype=WIDER.get(tensors[0].dtype)))


def _row_norms(tensors: list[Tensor], ord: float, widest: bool) -> Tensor:
    """Return norms of parts of the tensors, each part short enough for float32."""
    given = tensors[0].dtype
    if ord == math.inf and not given.is_complex:  # exact in any precision, and 15 times faster than a norm
        return torch.cat([torch.stack(torch.aminmax(piece)) for piece in _pieces(tensors, given)]).abs()
    dtype = WIDEST.get(given, torch.float64) if widest else WIDER.get(given, given)
    norms = [norm for piece in _pieces(tensors, dtype) for norm in _split(piece, ord)]
    return torch.cat(norms)


def _pieces(tensors: Sequence[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield vectors of that type, to be read one by one: long tensors as they lie, others by blocks."""
    sizes = list(map(Tensor.numel, tensors))
    whole = tensors[0].dtype == dtype
    scratch = tensors[0].new_empty(0 if whole and min(sizes) >= SHORT else BLOCK, dtype=dtype)
    for tensor in tensors if max(sizes) >= SHORT else ():
        if tensor.numel() >= SHORT:
            flat = _flat(tensor)
            yield from (flat,) if whole else (scratch[: b.numel()].copy_(b) for b in torch.split(flat, BLOCK))
    short = [tensor for tensor, size in zip(tensors, sizes, strict=True) if size < SHORT]
    for bunch, shape in _bunches(short):
        target = scratch[: sum(map(Tensor.numel, bunch))]
        put = torch.stack if shape else torch.cat
        like = target.view(len(bunch), *shape) if shape else target
        yield (put(bunch, out=like) if whole else like.copy_(put(bunch))).view(-1)


def _bunches(tensors: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], torch.Size | None]]:
    """Yield tensors of one shape, which are stacked at half the cost, then the others as vectors."""
    shapes: dict[torch.Size, list[Tensor]] = {}
    for tensor, shape in zip(tensors, map(attrgetter("shape"), tensors), strict=True):
        shapes.setdefault(shape, []).append(tensor)
    others: list[Tensor] = []
    for shape, same in shapes.items():
        if len(same) < FEW or not shape:
            others += map(Tensor.reshape, same, repeat(-1))
            continue
        for start in range(0, len(same), BUNCH):
            yield same[start : start + BUNCH], shape
    for start in range(0, len(others), BUNCH):
        yield others[start : start + BUNCH], None


def _flat(tensor: Tensor) -> Tensor:
    """Return the elements as a vector in the order of the memory: a copy only where they lie apart."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _split(piece: Tensor, ord: float) -> Iterator[Tensor]:
    """Yield the norms of the rows of a vector, and of what is left over."""
    if ord == 0:
        yield piece.count_nonzero().reshape(1)
        return
    if ord == 1 and not piece.is_complex():  # torch's sum is pairwise: fast, and right over a whole block
        yield torch.stack([part.abs().sum() for part in torch.split(piece, BLOCK)])
        return
    if piece.is_complex() and ord == 2:
        piece = torch.view_as_real(piece.resolve_conj()).view(-1)
    body = piece.numel() // ROW * ROW
    if body:
        yield torch.linalg.vector_norm(piece[:body].view(-1, ROW), ord, dim=1)
    if body < piece.numel():
        yield torch.linalg.vector_norm(piece[body:], ord).reshape(1)
