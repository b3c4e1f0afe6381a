"""Importances that look at the gradient of the loss."""

from torch import Tensor


def gradient(weight: Tensor, gradient: Tensor, /) -> Tensor:
    r"""Score a weight by how strongly the loss pulls at it: :math:`s = |g|`.

    It looks at no weight, so it also ranks weights that are zero: what a mask has removed and where it would
    be wanted back.

    Args:
        weight: Shape `(out, in, ...)`; only its place counts.
        gradient: Mean gradient of the loss, shaped like the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> gradient(torch.tensor([3.0, 0.0]), torch.tensor([-2.0, 0.5]))
        tensor([2.0000, 0.5000])

    References:
        Mozer and Smolensky, 1989, "Skeletonization", https://papers.nips.cc/paper/119-skeletonization
        Evci et al., 2020, "Rigging the Lottery", https://arxiv.org/abs/1911.11134 (where weights regrow)
    """
    return gradient.abs()


def taylor(weight: Tensor, gradient: Tensor, /) -> Tensor:
    r"""Score a weight by how much the loss would change without it, to first order: :math:`s = |w\,g|`.

    The mean gradient is near zero at the end of training, where batches pull in all directions: there
    `taylor_squared`, which adds up the batches after squaring, still tells the weights apart. Summed over a
    channel, the changes of its single weights cannot cancel.

    Args:
        weight: Shape `(out, in, ...)`.
        gradient: Mean gradient of the loss, shaped like the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> taylor(torch.tensor([3.0, -4.0]), torch.tensor([-2.0, 0.5]))
        tensor([6., 2.])

    References:
        Molchanov et al., 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
        https://arxiv.org/abs/1611.06440
    """
    return (weight.detach() * gradient).abs()


def taylor_squared(weight: Tensor, squared_gradient: Tensor, /) -> Tensor:
    r"""Score by the squared first-order change in loss over batches: :math:`s = \overline{(w\,g_b)^2}`.

    Small batches tell more: with one sample a batch it is twice `obd`. Summed over a channel it is the
    paper's form that adds up single weights, not that of a gate, in which they may cancel.

    Args:
        weight: Shape `(out, in, ...)`.
        squared_gradient: Mean over the batches of the squared gradient, shaped like the weight.

    Returns:
        The scores in float32 at least, shaped like the weight.

    Example:
        >>> import torch
        >>> taylor_squared(torch.tensor([3.0, -4.0]), torch.tensor([4.0, 0.5]))
        tensor([36.,  8.])

    References:
        Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning",
        https://arxiv.org/abs/1906.10771
    """
    return weight.detach().to(squared_gradient.dtype).square() * squared_gradient


def snip(weight: Tensor, gradient: Tensor, /) -> Tensor:
    r"""Score a connection of an untrained net by the pull at its switch: :math:`s = |\partial L/\partial c|`.

    The switch :math:`c = 1` multiplies the weight, so the pull at it is :math:`w\,g`: the formula of
    `taylor`, taken before training, of one or a few large batches. The paper divides by the sum over all
    weights, which changes no order and is left out.

    Args:
        weight: Shape `(out, in, ...)`, as it was initialised.
        gradient: Mean gradient of the loss, shaped like the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> snip(torch.tensor([3.0, -4.0]), torch.tensor([-2.0, 0.5]))
        tensor([6., 2.])

    References:
        Lee et al., 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        https://arxiv.org/abs/1810.02340
        de Jorge et al., 2021, "Progressive Skeletonization", https://arxiv.org/abs/2006.09081 (in rounds)
    """
    return taylor(weight, gradient)
