"""Measure units and rescale those that leave their bounds, writing no others."""

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor

from tonsor.tensors import BLOCK, distinct

UnitDim = int | tuple[int, ...]
Matrix = tuple[Tensor, tuple[int, ...]]  # a parameter, and the dimensions that number its units

ROW = 256  # elements of a long unit summed in float32 before float64 takes over: right to 3e-7
SHORT = 1e-12  # a unit no longer than this is zero: its direction is rounding
SMALL = 1 << 16  # parameters below this size are decided on together: there calls cost more than numbers
FEW = 16  # where fewer than one unit in sixteen moves, it alone is written: rows are dearer one by one


def rescale_(
    parameters: Iterable[Tensor],
    bounds: tuple[float, float],
    /,
    *,
    unit_dim: UnitDim,
    rule: str,
    rate: float = 1.0,
    least: int = 2,
) -> None:
    """Bring the norm of every unit between two bounds, or a share `rate` of the way, in place.

    Parameters of fewer dimensions than `least` are left alone.
    """
    matrices = [parameter for parameter in distinct(parameters) if parameter.ndim >= least]
    groups: dict[object, list[Matrix]] = {}
    for matrix in matrices:
        is_small = on_host(matrix) and matrix.numel() < SMALL
        group = groups.setdefault(matrix.dtype if is_small else id(matrix), [])
        group.append((matrix, unit_dims(matrix, unit_dim, rule)))
    for group in groups.values():
        _rescale_group_(group, bounds, rate)


def unit_dims(parameter: Tensor, unit_dim: UnitDim, rule: str) -> tuple[int, ...]:
    """Return the dimensions that number the units, counted from the front, in order."""
    if unit_dim == 0 and parameter.ndim:
        return (0,)
    given = unit_dim if isinstance(unit_dim, tuple) else (unit_dim,)
    ndim = parameter.ndim
    if not all(-ndim <= dim < ndim for dim in given):
        shape = tuple(parameter.shape)
        raise ValueError(f"constrain.{rule}: unit_dim={unit_dim} does not fit a parameter of shape {shape}")
    return tuple(sorted({dim % ndim for dim in given}))


def _rescale_group_(group: list[Matrix], bounds: tuple[float, float], rate: float) -> None:
    """Rescale the units of parameters of one type; on the CPU only what moves is written."""
    low, high = bounds
    apart = _lengths_apart(group)
    lengths = torch.cat(apart) if len(apart) > 1 else apart[0]
    allowed = slack(group[0][0].dtype)
    moves = lengths > high * (1 + allowed)
    if low > 0:
        moves |= (lengths < low * (1 - allowed)) & (lengths > SHORT)
    if on_host(lengths) and not moves.any():
        return
    moves &= lengths < torch.inf
    wanted = lengths.clamp(low, high) if rate == 1 else torch.lerp(lengths, lengths.clamp(low, high), rate)
    factors = torch.where(moves, wanted / lengths, 1.0)
    if len(group) == 1:
        _scale_units_(*group[0], factors, moves)
        return
    counts = list(map(len, apart))
    ends = torch.tensor(counts).cumsum(0)
    touched = sorted(set(torch.bucketize(moves.nonzero().squeeze(1), ends, right=True).tolist()))
    parts = torch.split(factors, counts)
    beside: list[Tensor] = [_beside(group[i][0], group[i][1], parts[i]) for i in touched]
    torch._foreach_mul_([group[i][0] for i in touched], beside)


def _lengths_apart(group: list[Matrix]) -> list[Tensor]:
    """Return the lengths of each matrix's units; of those of one shape a stack is measured in one call."""
    alike: dict[object, list[int]] = {}
    for place, (matrix, dims) in enumerate(group):
        alike.setdefault((matrix.shape, matrix.device, dims), []).append(place)
    found: dict[int, Tensor] = {}
    for places in alike.values():
        first, dims = group[places[0]]
        size = max(1, BLOCK // max(1, first.numel()))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            if len(some) == 1:
                found[some[0]] = unit_lengths(group[some[0]][0], dims)
                continue
            stack = torch.stack([group[place][0] for place in some])
            lengths = unit_lengths(stack, (0, *(dim + 1 for dim in dims))).view(len(some), -1)
            found |= zip(some, lengths.unbind(), strict=True)
    return [found[place] for place in range(len(group))]


def _scale_units_(matrix: Tensor, dims: tuple[int, ...], factors: Tensor, moves: Tensor) -> None:
    """Multiply each unit by its factor; where few of many move, on the CPU, the others are not touched."""
    if dims == (0,) and on_host(matrix):
        rows = moves.nonzero().squeeze(1)
        if FEW * len(rows) < len(matrix):
            picked = matrix.index_select(0, rows)
            matrix.index_copy_(0, rows, picked.mul_(_beside(picked, dims, factors[rows])))
            return
    matrix.mul_(_beside(matrix, dims, factors))


def _beside(matrix: Tensor, dims: tuple[int, ...], factors: Tensor) -> Tensor:
    """Return one number a unit in the shape that is broadcast over the matrix."""
    return factors.view([size if dim in dims else 1 for dim, size in enumerate(matrix.shape)])


def unit_lengths(parameter: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the 2-norm of each unit, one after the other: float64 for float64, else float32."""
    wide = parameter.float() if parameter.dtype in (torch.float16, torch.bfloat16) else parameter
    if dims == (0,) and wide.is_contiguous() and wide.numel():
        return _row_norms(wide.flatten(1))
    count = prod(wide.shape[dim] for dim in dims)
    front = wide.movedim(tuple(dims), tuple(range(len(dims))))
    return _row_norms(front.reshape(count, wide.numel() // max(1, count)).contiguous())


def _row_norms(rows: Tensor) -> Tensor:
    """Return the 2-norm of each row, long rows summed by parts."""
    count, length = rows.shape
    if length < 4 * ROW:
        return _norms(rows)
    body = length // ROW * ROW
    squares = _norms(rows[:, :body].view(count, body // ROW, ROW)).double().square().sum(1)
    if body < length:
        squares += _norms(rows[:, body:]).double().square()
    return squares.sqrt().to(_norms(rows[:, :1]).dtype)


def _norms(tensor: Tensor) -> Tensor:
    """Return the 2-norm along the last dimension."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=-1)
    return norms


def slack(dtype: torch.dtype) -> float:
    """Return the share by which a norm may pass its bound untouched: what rounding alone can make of it.

    Without it a unit that was just scaled to its bound would be scaled again, so twice would not be once.
    """
    sums = torch.finfo(torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32).eps
    return torch.finfo(dtype).eps + 24 * sums


def on_host(tensor: Tensor) -> bool:
    """Say whether looking at values costs nothing: a plain tensor on the CPU, neither sharded nor fake."""
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, torch.nn.Parameter)
