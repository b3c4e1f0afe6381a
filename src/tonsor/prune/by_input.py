"""Importances that look at what a layer is fed."""

import torch
from torch import Tensor


def wanda(weight: Tensor, input_norm: Tensor, /) -> Tensor:
    r"""Score a weight by its size times its input's: :math:`s_{ij} = |w_{ij}|\,\|X_j\|_2`.

    The paper lets only the weights of one output compete: take the scope `per_output` with it.

    Args:
        weight: Shape `(out, in, ...)`.
        input_norm: 2-norm of each input feature over the calibration batches, broadcastable to the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> wanda(torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 5.0]]))
        tensor([[3., 5.]])

    References:
        Sun et al., 2023, "A Simple and Effective Pruning Approach for Large Language Models",
        https://arxiv.org/abs/2306.11695
    """
    return weight.detach().abs() * input_norm


def input_channel(weight: Tensor, input_norm: Tensor, /) -> Tensor:
    r"""Score an input channel by what it is fed, whatever the weights: :math:`s_{ij} = \|X_j\|_2`.

    Made for patterns of whole columns, that is channels along dimension 1.

    Args:
        weight: Shape `(out, in, ...)`; only its shape counts.
        input_norm: 2-norm of each input feature over the calibration batches, broadcastable to the weight.

    Returns:
        The scores, shaped like the weight.

    Example:
        >>> input_channel(torch.ones(2, 2), torch.tensor([[1.0, 5.0]]))
        tensor([[1., 5.],
                [1., 5.]])

    References:
        He et al., 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
        https://arxiv.org/abs/1707.06168 (whose first-k and max-response baselines ask the same)
    """
    return input_norm.expand_as(weight)


def thinet(weight: Tensor, input_gram: Tensor, /) -> Tensor:
    r"""Score an input channel by what the layer's output loses with it, greedily one after another.

    At each turn the channel goes that, with all gone before it, changes the output least:
    :math:`\min_c \mathrm{tr}(W_T G_{TT} W_T^T)` with T what is gone and c. Its score is that change, the mean
    square over the calibration positions summed over the outputs; where the change is no larger than at an
    earlier turn, it is raised just above that turn's, so that the scores keep the order.
    Groups of a convolution are taken one by one. Made for patterns of whole columns; the least-squares refit
    of the paper is a step of its own.

    Args:
        weight: Shape `(out, in, ...)`.
        input_gram: Mean over samples and positions of the outer product of what each output of a group is
            computed from, `(groups, d, d)`, with d as the columns of `weight.flatten(1)`.

    Returns:
        The scores in float64, shaped like the weight.

    Example:
        >>> gram = torch.tensor([[[1.0, 0.75, 0.0], [0.75, 1.0, 0.0], [0.0, 0.0, 1.5]]])
        >>> w = torch.tensor([[1.0, -1.0, 1.0]])    # the first two all but cancel
        >>> thinet(w, gram).round(decimals=3)
        tensor([[1., 1., 2.]], dtype=torch.float64)

    References:
        Luo et al., 2017, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
        https://arxiv.org/abs/1707.06342
    """
    width = weight[:1].numel()  # inputs of one output
    gram = input_gram.reshape(-1, width, width).double()
    groups, inputs = len(gram), weight.shape[1] if weight.ndim > 1 else 1
    rows = weight.detach().to(gram.device, gram.dtype).reshape(groups, -1, width)
    shape = groups, inputs, width // inputs, inputs, width // inputs
    between = (gram * (rows.mT @ rows)).view(shape).sum((2, 4))  # of channels: what they change together
    scores = _greedy(between).repeat_interleave(weight.shape[0] // groups, dim=0)
    return scores.view(-1, inputs, *[1] * (weight.ndim - 2)).expand_as(weight).to(weight.device)


def _greedy(between: Tensor) -> Tensor:
    """Return the rising change at which each channel goes, `(groups, channels)`."""
    more = between.diagonal(dim1=1, dim2=2).clone()  # what the next one to go would add
    scores = torch.zeros_like(more)
    total = last = torch.zeros_like(more[:, :1])
    for _ in range(more.shape[1]):
        index = more.argmin(1, keepdim=True)
        total = total + more.gather(1, index)
        # A millionth keeps the order even where somebody rounds the scores to float32.
        last = torch.maximum(total, last * (1 + 1e-6))
        scores = scores.scatter(1, index, last)
        chosen = index.unsqueeze(2).expand(-1, -1, more.shape[1])
        more = (more + 2 * between.gather(1, chosen).squeeze(1)).scatter(1, index, torch.inf)
    return scores
