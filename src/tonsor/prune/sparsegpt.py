"""SparseGPT: columns are pruned one after the other, and what is lost is made up for by those that follow."""

import torch
from torch import Tensor

from tonsor.prune.rows import by_runs, check_runs, damped, factor, kept, rows_of


@torch.no_grad()
def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    sparsity: float,
    /,
    *,
    m: int = 0,
    mean: Tensor | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor]:
    r"""Prune a weight column by column, and push each column's error to the columns that follow.

    With :math:`H^{-1} = U^\top U`, U upper triangular, weights are scored by :math:`w_{ij}^2 / U_{jj}^2`; of
    each block of columns the lowest go, and :math:`w_{i,j:} \leftarrow w_{i,j:} - w_{ij} U_{j,j:} / U_{jj}`
    for each weight that goes, the optimal brain surgeon's answer among the columns not yet frozen.

    Args:
        weight: Shape `(out, in/groups, ...)`.
        gram: Statistic `input_gram`: :math:`H = E[x x^\top]`.
        sparsity: Fraction removed, in [0, 1).
        m: Length of the runs along the input of which each loses :math:`\lfloor \text{sparsity} \cdot m
            \rfloor` (2:4 is sparsity 0.5 with m = 4); 0 lets all weights of a block compete.
        mean: Statistic `input_mean`; given where a bias makes up for the mean.
        block: Columns whose weights compete, and whose errors are passed on at once.
        damping: Added to H's diagonal, over its mean; more pushes less.

    Returns:
        The new weight, and its mask, true where the weight stays.

    Raises:
        ValueError: If a setting or a shape does not fit.

    Example:
        >>> w, mask = sparsegpt(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), 0.5,
        ...                     damping=0.0)
        >>> w, mask    # the second takes over 1 * 0.5
        (tensor([[0.0000, 2.5000]]), tensor([[False,  True]]))

    References:
        Frantar and Alistarh, 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
        One-Shot", https://arxiv.org/abs/2301.00774
    """
    check_runs("sparsegpt", weight, sparsity, m)
    rows, grams = rows_of("sparsegpt", weight, gram, mean)
    grams, order, back = by_runs(weight, grams, m)
    rows = rows[..., order]
    lower = factor("sparsegpt", damped(grams, damping))
    upper = factor("sparsegpt", torch.cholesky_inverse(lower)).mT
    step = max(m, block // m * m) if m else block
    mask = torch.ones_like(rows, dtype=torch.bool)
    done = 0
    for start in range(0, rows.shape[-1], step):
        end = min(start + step, rows.shape[-1])
        columns = slice(start, end)
        corner = upper[:, columns, columns]
        if m:
            mask[..., columns], errors = _sweep(rows[..., columns], corner, None, sparsity, m)
        else:
            goal = round(sparsity * rows[0, :, :end].numel())  # so that the blocks add up to the sparsity
            share = (goal - done) / rows[0, :, columns].numel()
            done = goal
            scores = (rows[..., columns] / corner.diagonal(dim1=1, dim2=2).unsqueeze(1)).square()
            stays = kept("sparsegpt", scores, share, 0)
            mask[..., columns], errors = _sweep(rows[..., columns], corner, stays, sparsity, 0)
        rows[..., end:] -= errors @ upper[:, columns, end:]
    rows = rows.where(mask, 0)
    new = rows[..., back].reshape(weight.shape).to(weight.dtype)
    return new, mask[..., back].reshape(weight.shape)


def _sweep(
    rows: Tensor, upper: Tensor, stays: Tensor | None, sparsity: float, m: int
) -> tuple[Tensor, Tensor]:
    """Go through the columns of one block in place; return what stays, and the errors of each column.

    A mask that is not given is chosen run by run, when the run is reached.
    """
    mask = torch.ones_like(rows, dtype=torch.bool) if stays is None else stays
    errors = torch.zeros_like(rows)
    for j in range(rows.shape[-1]):
        if m and j % m == 0:
            run = slice(j, j + m)
            scale = upper[:, run, run].diagonal(dim1=1, dim2=2).unsqueeze(1)
            mask[..., run] = kept("sparsegpt", (rows[..., run] / scale).square(), sparsity, m)
        lost = rows[..., j].where(~mask[..., j], 0) / upper[:, j, j, None]
        rows[..., j:] -= lost.unsqueeze(2) * upper[:, None, j, j:]
        errors[..., j] = lost
    return mask, errors
