"""ALPS: mask and weights are found together by ADMM, then the weights are refitted on the mask."""

import torch
from torch import Tensor

from tonsor.prune.on_support import conjugate
from tonsor.prune.rows import by_runs, check_runs, damped, kept, rows_of

STEPS = 300  # ADMM steps at most; some tens are usual
REFINE = 10  # steps of conjugate gradients on the support
EVERY = 3  # steps between two looks at the support
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))  # above this change of the support rho grows by that


@torch.no_grad()
def alps(
    weight: Tensor,
    gram: Tensor,
    sparsity: float,
    /,
    *,
    m: int = 0,
    mean: Tensor | None = None,
    rho: float = 0.1,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor]:
    r"""Prune a weight by ADMM over weights W and their sparse copy D, then refine W on the support of D.

    .. math::
        W &\leftarrow (H + \rho I)^{-1} (H \hat W - V + \rho D) \\
        D &\leftarrow P(W + V / \rho) \qquad V \leftarrow V + \rho\,(W - D)

    P keeps the largest. :math:`\rho` grows while the support still changes, and it ends where the support
    stands still, or after 300 steps. Features are scaled first so that H has ones on its diagonal; ten
    steps of conjugate gradients refine what is kept (`refit` solves that exactly, and the bias too).

    Args:
        weight: Shape `(out, in/groups, ...)`.
        gram: Statistic `input_gram`: :math:`H = E[x x^\top]`.
        sparsity: Fraction removed of each group, in [0, 1); exactly that many go.
        m: Length of the runs along the input of which each loses :math:`\lfloor \text{sparsity} \cdot m
            \rfloor` (2:4 is sparsity 0.5 with m = 4); 0 lets all weights of a group compete.
        mean: Statistic `input_mean`; given where a bias makes up for the mean.
        rho: What it starts with, above 0; more settles sooner and nearer to plain magnitude.
        damping: Added to H's diagonal, over its mean; more stays closer to the dense weights.

    Returns:
        The new weight, and its mask, true where the weight stays.

    Raises:
        ValueError: If a setting or a shape does not fit.

    Example:
        >>> gram = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> w, mask = alps(torch.tensor([[0.2, 2.0]]), gram, 0.5, damping=0.0)
        >>> w, mask    # the second takes over 0.2 * 0.5
        (tensor([[0.0000, 2.1000]]), tensor([[False,  True]]))

    References:
        Meng et al., 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
        Language Models", https://arxiv.org/abs/2406.07831
    """
    check_runs("alps", weight, sparsity, m)
    if rho <= 0:
        raise ValueError(f"prune.alps: rho must be above 0; got {rho}")
    rows, grams = rows_of("alps", weight, gram, mean)
    grams, order, back = by_runs(weight, damped(grams, damping), m)
    scale = grams.diagonal(dim1=1, dim2=2).sqrt()
    grams = grams / scale[:, :, None] / scale[:, None, :]
    dense = rows[..., order] * scale.unsqueeze(1)
    mask = _support(dense, grams, sparsity, m, rho)
    refined = [
        conjugate(row, stays, matrix, row @ matrix, REFINE)
        for row, stays, matrix in zip(dense, mask, grams, strict=True)
    ]
    new = (torch.stack(refined) / scale.unsqueeze(1))[..., back]
    return new.reshape(weight.shape).to(weight.dtype), mask[..., back].reshape(weight.shape)


def _support(dense: Tensor, gram: Tensor, sparsity: float, m: int, rho: float) -> Tensor:
    """Return the support that ADMM settles on.

    Each group has a rho of its own, its own end, and nothing to do with the others.
    """
    found = [
        _support_of_group(row.float(), matrix, sparsity, m, rho)
        for row, matrix in zip(dense, gram, strict=True)
    ]
    return torch.stack(found)


def _support_of_group(dense: Tensor, gram: Tensor, sparsity: float, m: int, rho: float) -> Tensor:
    """Return the support of one group; float32 is enough for a choice, and twice as fast."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors, gram = values.float(), vectors.float(), gram.float()
    pull = dense @ gram
    stays = kept("alps", dense.square().unsqueeze(0), sparsity, m)[0]
    sparse, dual = dense * stays, torch.zeros_like(dense)
    looked_at = stays
    for step in range(1, STEPS + 1):
        free = ((pull - dual + rho * sparse) @ vectors / (values + rho)) @ vectors.mT
        wish = free + dual / rho
        stays = kept("alps", wish.square().unsqueeze(0), sparsity, m)[0]
        sparse = wish * stays
        dual = dual + rho * (free - sparse)
        if step % EVERY == 0:
            changed = float((stays ^ looked_at).sum() / stays.sum().clamp(min=1))
            if changed == 0:
                break
            rho *= next(growth for above, growth in GROWTH if changed >= above)
            looked_at = stays
    return stays
