"""An importance without data: the flow that passes through a weight."""

from torch import Tensor


def synflow(weight: Tensor, synaptic_flow: Tensor, /) -> Tensor:
    r"""Score a weight by the flow through it: :math:`s = |w|\,\partial R / \partial |w|`.

    Of :math:`R = \mathbf{1}^T (\prod_l |W_l|) \mathbf{1}`, what the net of absolute weights gives for ones.
    The scores of every layer sum to R, so that a narrow layer scores high; but a layer only keeps its last
    weights if the flow is measured anew as they go: find the masks with `find_in_rounds`, in 100 rounds.

    Args:
        weight: Shape `(out, in, ...)`.
        synaptic_flow: Derivative of R by the weight's size, shaped like the weight.

    Returns:
        The scores in float64, shaped like the weight.

    Example:
        >>> import torch
        >>> synflow(torch.tensor([3.0, -4.0]), torch.tensor([2.0, 0.5]))
        tensor([6., 2.], dtype=torch.float64)

    References:
        Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic
        flow", https://arxiv.org/abs/2006.05467
    """
    return weight.detach().double().abs() * synaptic_flow.double()
