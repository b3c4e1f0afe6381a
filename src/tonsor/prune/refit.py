"""Least squares: the kept weights are refitted to what the layer gave."""

import torch
from torch import Tensor

from tonsor.prune.from_loss import wide
from tonsor.prune.on_support import solve
from tonsor.prune.rows import damped, factor, rows_of


@torch.no_grad()
def refit(
    weight: Tensor,
    mask: Tensor,
    gram: Tensor,
    /,
    *,
    mean: Tensor | None = None,
    cross: Tensor | None = None,
    damping: float = 0.1,
    widest: int | None = None,
) -> Tensor:
    r"""Refit the kept weights of every output to what the dense layer gave, by least squares.

    Each row solves :math:`\min_w (w - \hat w)^\top (G + \lambda I) (w - \hat w)` over the weights that its
    mask keeps: by factorising its normal equations, one factorisation for all where all rows keep the same
    inputs; or, where a row keeps many, by conjugate gradients in the weight's own type. Any mask will do.

    Args:
        weight: The dense weight, `(out, in/groups, ...)`.
        mask: Boolean, shaped like the weight, true where the weight stays.
        gram: Statistic `input_gram`: :math:`G = E[x x^\top]`.
        mean: Statistic `input_mean`; given where the layer has a bias that is refitted too
            (:math:`b + (\hat w - w)^\top m`), so that only the spread of the inputs counts.
        cross: :math:`E[x_0 x^\top]` of the dense model's inputs and the current ones, less the product of
            their means where `mean` is given: the target is then what the dense layer gave the dense inputs.
        damping: :math:`\lambda` over the mean of G's diagonal, at least 0; more trusts the dense weights
            more and the calibration less. With few samples 0.1 was measured to generalise better than the
            0.01 that the papers have; with many the two are alike.
        widest: Kept weights of a row up to which its normal equations are factorised; without it as many
            as that is faster for than conjugate gradients are, which are five times as fast at 768.

    Returns:
        The weight refitted, zero where the mask is false, in the dense weight's shape and type.

    Raises:
        ValueError: If the shapes do not fit, or the equations have no single solution without damping.

    Example:
        >>> w, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]])
        >>> refit(w, mask, torch.tensor([[1.0, 0.5], [0.5, 1.0]]), damping=0.0)   # 1 + 2 * 0.5
        tensor([[2., 0.]])

    References:
        Frantar and Alistarh, 2023, "SparseGPT", https://arxiv.org/abs/2301.00774 (section 3.1, exact
        reconstruction)
        Meng et al., 2024, "ALPS", https://arxiv.org/abs/2406.07831 (conjugate gradients on the support)
    """
    rows, grams = rows_of("refit", weight, gram, mean)
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"prune.refit: the mask must be boolean of shape {tuple(weight.shape)}; got {mask.dtype} of shape"
            f" {tuple(mask.shape)}"
        )
    stays = mask.to(weight.device).reshape(rows.shape)
    matrices = damped(grams, damping)
    targets = rows @ matrices if cross is None else rows @ (cross.double().view_as(grams) + matrices - grams)
    solved = [
        solve(row, stay, matrix, target, widest)
        for row, stay, matrix, target in zip(rows.to(wide(weight)), stays, matrices, targets, strict=True)
    ]
    return torch.stack(solved).view(weight.shape).to(weight.dtype)


@torch.no_grad()
def refit_(
    weight: Tensor,
    mask: Tensor,
    gram: Tensor,
    /,
    *,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    damping: float = 0.1,
) -> None:
    r"""Refit weight and bias of one layer in place, given any mask.

    With a bias, :math:`b \leftarrow b + (\hat W - W)\,m` as well, the best bias there is.

    Args:
        weight: The dense weight, `(out, in/groups, ...)`; the zeros of the mask are written too.
        mask: Boolean, shaped like the weight, true where the weight stays.
        gram: Statistic `input_gram`.
        bias: The layer's bias, `(out,)`.
        mean: Statistic `input_mean`; needed with a bias.
        damping: As for `refit`.

    Raises:
        ValueError: If the shapes do not fit, or a bias comes without the mean input.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> x = torch.tensor([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]])   # the second input never changes
        >>> before, mask = layer(x), torch.tensor([[True, False]])
        >>> refit_(layer.weight, mask, x.T @ x / 3, bias=layer.bias, mean=x.mean(0), damping=0.0)
        >>> torch.allclose(layer(x), before), layer.weight[0, 1].item()
        (True, 0.0)

    References:
        Frantar and Alistarh, 2023, "SparseGPT", https://arxiv.org/abs/2301.00774
    """
    if bias is not None and mean is None:
        raise ValueError("prune.refit_: a bias needs the mean input; give mean=, the statistic 'input_mean'")
    inputs = mean if bias is not None else None
    new = refit(weight, mask, gram, mean=inputs, damping=damping)
    if bias is not None and inputs is not None:
        bias.add_(moved(weight.detach().double() - new.double(), inputs).to(bias.dtype))
    weight.copy_(new)


def moved(change: Tensor, mean: Tensor, /) -> Tensor:
    """Return what a change of weights adds to the mean of each output, shape `(out,)`.

    Args:
        change: Shape `(out, in/groups, ...)`.
        mean: Mean input, `(groups, features)` or `(features,)`.

    Example:
        >>> moved(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 4.0]))
        tensor([11.], dtype=torch.float64)
    """
    means = mean.double().reshape(-1, change[0].numel(), 1)
    return (change.double().reshape(len(means), -1, means.shape[1]) @ means).flatten()


@torch.no_grad()
def retarget(
    weight: Tensor,
    gram: Tensor,
    cross: Tensor,
    /,
    *,
    damping: float = 0.1,
) -> Tensor:
    r"""Return the dense weight that from the current inputs best gives what the layer gave the dense inputs.

    .. math:: \tilde W = (\hat W C + \lambda \hat W)(G + \lambda I)^{-1}

    Layers before it have been pruned, so a layer is fed something else than before; what is pruned from
    here on is measured against this weight.

    Args:
        weight: The dense weight, `(out, in/groups, ...)`.
        gram: :math:`G = E[x x^\top]` of the current inputs.
        cross: :math:`C = E[x_0 x^\top]` of the dense model's inputs and the current ones.
        damping: :math:`\lambda` over the mean of G's diagonal; more stays closer to the weight there was.

    Returns:
        The weight in float64, shaped as before.

    Raises:
        ValueError: If the shapes do not fit, or G is singular and there is no damping.

    Example:
        >>> w = torch.tensor([[3.0]])    # the input is half of what it was
        >>> retarget(w, torch.tensor([[1.0]]), torch.tensor([[2.0]]), damping=0.0)
        tensor([[6.]], dtype=torch.float64)

    References:
        Li et al., 2025, "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration",
        https://arxiv.org/abs/2504.02692
    """
    rows, grams = rows_of("retarget", weight, gram)
    matrices = damped(grams, damping)
    target = rows @ (cross.double().view_as(grams) + matrices - grams)
    return torch.cholesky_solve(target.mT, factor("retarget", matrices)).mT.reshape(weight.shape)
