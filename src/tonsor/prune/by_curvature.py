"""Importances that look at the curvature of the loss, without inverting it."""

from torch import Tensor


def obd(weight: Tensor, fisher: Tensor, /) -> Tensor:
    r"""Score a weight by what its removal adds to the loss at a minimum: :math:`s = \tfrac12 w^2 F_{jj}`.

    Optimal Brain Damage, with the diagonal of the empirical Fisher as the diagonal of the Hessian; the two
    meet where the loss is a negative log-likelihood and the model fits.

    Args:
        weight: Shape `(out, in, ...)`.
        fisher: Mean squared gradient of single samples, shaped like the weight.

    Returns:
        The scores, an estimate of the change in loss, in float32 at least, shaped like the weight.

    Example:
        >>> import torch
        >>> obd(torch.tensor([3.0, -4.0]), torch.tensor([2.0, 0.5]))
        tensor([9., 4.])

    References:
        LeCun et al., 1990, "Optimal Brain Damage", https://papers.nips.cc/paper/250-optimal-brain-damage
    """
    return weight.detach().to(fisher.dtype).square() * fisher / 2


def grasp(weight: Tensor, hessian_gradient: Tensor, /) -> Tensor:
    r"""Score a weight by how much its removal weakens the flow of gradient: :math:`s = w\,(Hg)`.

    To first order the squared norm of the gradient changes by :math:`-2\,w\,(Hg)` where the weight is
    removed. The paper scores the opposite sign and removes the highest; here the highest stay. Take it before
    training. In the paper's loss the logits are divided by a temperature of 200.

    Args:
        weight: Shape `(out, in, ...)`, as it was initialised.
        hessian_gradient: Hessian of the mean loss times its gradient, shaped like the weight.

    Returns:
        The scores, of either sign, shaped like the weight.

    Example:
        >>> import torch
        >>> grasp(torch.tensor([3.0, -4.0]), torch.tensor([2.0, 0.5]))
        tensor([ 6., -2.])

    References:
        Wang et al., 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        https://arxiv.org/abs/2002.07376
    """
    return weight.detach() * hessian_gradient
