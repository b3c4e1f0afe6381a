"""What the solvers share: a weight as rows by group, a damped Gram matrix, the choice of what stays."""

import math

import torch
from torch import Tensor

from tonsor.prune.select import check_sparsity, keep_highest_of_rows


def rows_of(rule: str, weight: Tensor, gram: Tensor, /, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return weight and Gram matrix group by group in float64, of inputs less their mean where it is given.

    Args:
        rule: Name of the rule that asks, for the error.
        weight: Shape `(out, in/groups, ...)`.
        gram: Shape `(groups, features, features)`, or without the first dimension for one group.
        mean: Mean input, `(groups, features)` or `(features,)`: what it adds, a bias makes up for.

    Returns:
        The weight as `(groups, out/groups, features)` and :math:`G - m m^\top`.

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> rows_of("refit", torch.zeros(6, 2, 3), torch.zeros(3, 6, 6))[0].shape
        torch.Size([3, 2, 6])
    """
    grams = gram.double() if gram.ndim == 3 else gram.double().unsqueeze(0)
    groups, features = len(grams), grams.shape[-1]
    fits = weight.ndim > 1 and len(weight) % groups == 0 and weight[0].numel() == features
    if not fits or grams.shape[1:] != (features, features):
        raise ValueError(
            f"prune.{rule}: a weight of shape {tuple(weight.shape)} needs a gram of shape (groups, features,"
            f" features) with {weight[0].numel() if weight.ndim else 0} features; got {tuple(gram.shape)};"
            " take the statistic 'input_gram'"
        )
    if mean is not None:
        means = mean.double().reshape(groups, features, 1)
        grams = grams - means * means.mT
    return weight.detach().double().reshape(groups, -1, features), grams


def damped(gram: Tensor, damping: float, /) -> Tensor:
    r"""Return :math:`G + \lambda I` with :math:`\lambda` = damping times the mean of the diagonal.

    Args:
        gram: Shape `(groups, features, features)`.
        damping: At least 0; with more, a solution stays closer to the weights there were.

    Example:
        >>> damped(torch.tensor([[[2.0, 1.0], [1.0, 4.0]]]), 0.5)
        tensor([[[3.5000, 1.0000],
                 [1.0000, 5.5000]]])
    """
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    amount = torch.where(mean > 0, damping * mean, 1.0)  # inputs that are never anything: any answer is right
    return gram + torch.diag_embed(amount.unsqueeze(1).expand(gram.shape[:2]))


def factor(rule: str, matrix: Tensor, /) -> Tensor:
    """Return the lower Cholesky factors of matrices, or say that damping is needed.

    Args:
        rule: Name of the rule that asks, for the error.
        matrix: Symmetric matrices, shape `(..., n, n)`.

    Raises:
        ValueError: If one is not positive definite.

    Example:
        >>> factor("refit", torch.tensor([[4.0]]))
        tensor([[2.]])
    """
    lower: Tensor
    lower, wrong = torch.linalg.cholesky_ex(matrix)
    if wrong.any():
        raise ValueError(
            f"prune.{rule}: the gram is not positive definite (fewer samples than features, or a value that"
            " is not finite); raise damping, or calibrate with more samples"
        )
    return lower


def kept(rule: str, scores: Tensor, sparsity: float, m: int, /) -> Tensor:
    """Return what stays: of each group as a whole, or of each run of m features of every row.

    Args:
        rule: Name of the rule that asks, for the error.
        scores: Shape `(groups, rows, features)`.
        sparsity: Fraction removed.
        m: Length of a run; 0 lets all of a group compete.

    Example:
        >>> kept("alps", torch.tensor([[[4.0, 1.0], [3.0, 2.0]]]), 0.5, 0)
        tensor([[[ True, False],
                 [ True, False]]])
    """
    if not m:
        return keep_highest_of_rows(scores.flatten(1), sparsity).view(scores.shape)
    gone = math.floor(sparsity * m + 1e-9)  # as the scope n_of_m counts
    return keep_highest_of_rows(scores.reshape(-1, m), gone / m).view(scores.shape)


def check_runs(rule: str, weight: Tensor, sparsity: float, m: int, /) -> None:
    """Refuse a sparsity outside [0, 1), and runs that do not fit the inputs.

    Args:
        rule: Name of the rule that asks, for the error.
        weight: Shape `(out, in, ...)`.
        sparsity: Fraction removed.
        m: Length of a run, 0 for none.

    Raises:
        ValueError: If the inputs are no multiple of m.

    Example:
        >>> check_runs("alps", torch.zeros(2, 3), 0.5, 4)
        Traceback (most recent call last):
        ValueError: prune.alps: runs of 4 do not fit 3 inputs; leave this weight out or choose another m
    """
    check_sparsity(rule, sparsity)
    if m and weight.shape[1] % m:
        raise ValueError(
            f"prune.{rule}: runs of {m} do not fit {weight.shape[1]} inputs; leave this weight out or choose"
            " another m"
        )


def by_runs(weight: Tensor, gram: Tensor, m: int, /) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and Gram matrices with neighbouring inputs side by side, and the order that undoes it.

    The columns of a convolution's weight go through the kernel first; runs go along the inputs.

    Args:
        weight: The weight as it was, for its shape.
        gram: Shape `(groups, features, features)`.
        m: Length of a run; 0 leaves the order as it is.

    Returns:
        The Gram matrices in the new order, the order, and its inverse.

    Example:
        >>> by_runs(torch.zeros(1, 2, 2), torch.eye(4).unsqueeze(0), 2)[1]
        tensor([0, 2, 1, 3])
    """
    order = torch.arange(gram.shape[-1], device=gram.device)
    if m:
        order = order.view(weight.shape[1], -1).t().flatten()
    return gram[:, order[:, None], order], order, order.argsort()
