"""Least squares on a support: each row solves the equations of the weights that it keeps."""

import torch
from torch import Tensor

from tonsor.prune.rows import factor

PIECE = 1 << 23  # elements of the normal equations that are held at once
STEPS = 100  # of conjugate gradients; 50 were measured to come within 1e-5 of the least error
WORTH = 25  # a support of n is factorised while n^3 is at most this times features^2, as measured on a CPU
ENOUGH = 1e-12  # of the energy there was: the end of conjugate gradients


def conjugate(start: Tensor, stays: Tensor, matrix: Tensor, target: Tensor, steps: int, /) -> Tensor:
    """Return the rows that solve their normal equations on the support, by conjugate gradients.

    Preconditioned by the diagonal; all rows go together, each with steps of its own size.

    Args:
        start: Where to start, `(rows, features)`.
        stays: The support, true where a weight is.
        matrix: Positive definite, `(features, features)`.
        target: Right-hand sides, shaped like the start.
        steps: Steps at most; it stops earlier where nothing is left to gain.

    Example:
        >>> support = torch.tensor([[True, False]])
        >>> conjugate(torch.zeros(1, 2), support, 2 * torch.eye(2), torch.tensor([[4.0, 4.0]]), 1)
        tensor([[2., 0.]])
    """
    scale = matrix.diagonal()
    found = start * stays
    residual = (target - found @ matrix) * stays
    direction = residual / scale
    power = (residual * direction).sum(1, keepdim=True)
    enough = ENOUGH * (target * stays * target / scale).sum(1, keepdim=True)
    for _ in range(steps):
        if not (power > enough).any():
            break
        ahead = (direction @ matrix) * stays
        step = power / (direction * ahead).sum(1, keepdim=True).clamp(min=torch.finfo(power.dtype).tiny)
        found = found + step * direction
        residual = residual - step * ahead
        upright = residual / scale
        before, power = power, (residual * upright).sum(1, keepdim=True)
        direction = upright + direction * (power / before.clamp(min=torch.finfo(power.dtype).tiny))
    return found


def solve(start: Tensor, stays: Tensor, matrix: Tensor, target: Tensor, widest: int | None, /) -> Tensor:
    """Return the rows that solve their normal equations on their supports, by the way that is fastest.

    Args:
        start: Where iterations start, `(rows, features)`; has the type to iterate in.
        stays: The supports, true where a weight is.
        matrix: Positive definite, `(features, features)`, in float64.
        target: Right-hand sides in float64, shaped like the start.
        widest: Size of a support up to which its equations are factorised; None: what is fastest.

    Example:
        >>> support, matrix = torch.tensor([[True, False]]), 4 * torch.eye(2, dtype=torch.float64)
        >>> solve(torch.zeros(1, 2), support, matrix, torch.full((1, 2), 8.0, dtype=torch.float64), 9)
        tensor([[2., 0.]], dtype=torch.float64)
    """
    found = torch.zeros_like(target)
    used = stays.any(1).nonzero().squeeze(1)
    if not len(used):
        return found
    first = stays[used[0]]
    if (stays[used] == first).all():
        columns = first.nonzero().squeeze(1)
        lower = factor("refit", matrix[columns][:, columns])
        solved = torch.cholesky_solve(target[used][:, columns].mT, lower).mT
        found[used[:, None], columns] = solved
        return found
    counts = stays.sum(1)
    if widest is None:
        widest = int((WORTH * stays.shape[1] ** 2) ** (1 / 3))
    many = used[counts[used] > widest]
    if len(many):
        solved = conjugate(
            start[many], stays[many], matrix.to(start.dtype), target[many].to(start.dtype), STEPS
        )
        found[many] = solved.double()
    narrow = used[counts[used] <= widest]
    narrow = narrow[counts[narrow].argsort(descending=True)]  # rows of like length share a batch
    while len(narrow):
        piece = narrow[: max(1, PIECE // int(counts[narrow[0]]) ** 2)]
        _solve_rows(found, piece, stays, matrix, target)
        narrow = narrow[len(piece) :]
    return found


def _solve_rows(found: Tensor, piece: Tensor, stays: Tensor, matrix: Tensor, target: Tensor) -> None:
    """Solve a few rows at once, each filled up with ones on the diagonal to the longest."""
    stay = stays[piece]
    most = int(stay.sum(1).max())
    columns = stay.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    is_real = stay.gather(1, columns)
    equations = matrix[columns[:, :, None], columns[:, None, :]]
    equations *= is_real[:, :, None] & is_real[:, None, :]
    equations.diagonal(dim1=1, dim2=2).add_((~is_real).to(matrix.dtype))
    right = (target[piece].gather(1, columns) * is_real).unsqueeze(2)
    solved = torch.cholesky_solve(right, factor("refit", equations)).squeeze(2)
    found[piece[:, None], columns] = solved * is_real
