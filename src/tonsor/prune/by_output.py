"""Importances that look at what a layer gives: every weight of an output channel gets the channel's score.

They are made for patterns of whole channels. The output is judged where the next layer takes it, behind
normalisation and nonlinearity.
"""

from torch import Tensor


def mean_activation(weight: Tensor, activation_mean: Tensor, /) -> Tensor:
    r"""Score an output channel by how strongly it speaks: :math:`s = \overline{|a|}`.

    Args:
        weight: Shape `(out, in, ...)`; only its shape counts.
        activation_mean: Mean size of each output channel's activation, broadcastable to the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> mean_activation(torch.ones(2, 2), torch.tensor([[3.0], [1.0]]))
        tensor([[3., 3.],
                [1., 1.]])

    References:
        Molchanov et al., 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
        https://arxiv.org/abs/1611.06440
    """
    return activation_mean.expand_as(weight)


def apoz(weight: Tensor, activation_zeros: Tensor, /) -> Tensor:
    r"""Score an output channel by how often it speaks: :math:`s = 1 - \overline{[a = 0]}`.

    One less the average percentage of zeros. Behind a nonlinearity that gives no exact zeros (GELU, SiLU)
    every channel scores 1.

    Args:
        weight: Shape `(out, in, ...)`; only its shape counts.
        activation_zeros: Share of zeros in each output channel's activation, broadcastable to the weight.

    Returns:
        The scores in [0, 1], shaped like the weight.

    Example:
        >>> import torch
        >>> apoz(torch.ones(2, 1), torch.tensor([[0.25], [1.0]]))
        tensor([[0.7500],
                [0.0000]])

    References:
        Hu et al., 2016, "Network Trimming", https://arxiv.org/abs/1607.03250
    """
    return (1 - activation_zeros).expand_as(weight)


def output_variance(weight: Tensor, activation_variance: Tensor, /) -> Tensor:
    r"""Score an output channel by how much it varies: :math:`s = \overline{a^2} - \bar{a}^2`.

    What never varies says nothing about the input: a bias of the next layer can take its place.

    Args:
        weight: Shape `(out, in, ...)`; only its shape counts.
        activation_variance: Variance of each output channel's activation, broadcastable to the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> output_variance(torch.ones(2, 1), torch.tensor([[4.0], [0.0]]))
        tensor([[4.],
                [0.]])

    References:
        Polyak and Wolf, 2015, "Channel-Level Acceleration of Deep Face Representations",
        https://ieeexplore.ieee.org/document/7303876
    """
    return activation_variance.expand_as(weight)


def hrank(weight: Tensor, activation_rank: Tensor, /) -> Tensor:
    r"""Score an output channel by how rich its map is: :math:`s = \overline{\mathrm{rank}(A)}`.

    Args:
        weight: Shape `(out, in, height, width)`; only its shape counts.
        activation_rank: Mean rank of each output channel's map, broadcastable to the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> hrank(torch.ones(2, 1), torch.tensor([[7.0], [2.5]]))
        tensor([[7.0000],
                [2.5000]])

    References:
        Lin et al., 2020, "HRank: Filter Pruning using High-Rank Feature Map",
        https://arxiv.org/abs/2002.10179
    """
    return activation_rank.expand_as(weight)


def slimming(weight: Tensor, norm_scale: Tensor, /) -> Tensor:
    r"""Score an output channel by the scale its normalisation gives it: :math:`s = |\gamma|`.

    The scales tell channels apart where training pushed some to zero: the paper penalises their 1-norm.

    Args:
        weight: Shape `(out, in, ...)`; only its shape counts.
        norm_scale: Scale of the normalisation that follows, broadcastable to the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> import torch
        >>> slimming(torch.ones(2, 1), torch.tensor([[0.5], [2.0]]))
        tensor([[0.5000],
                [2.0000]])

    References:
        Liu et al., 2017, "Learning Efficient Convolutional Networks through Network Slimming",
        https://arxiv.org/abs/1708.06519
    """
    return norm_scale.expand_as(weight)
