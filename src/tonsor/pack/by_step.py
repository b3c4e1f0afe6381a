"""Weights that are whole multiples of a step."""

import torch
from torch import Tensor

from tonsor.pack.by_kmeans import check
from tonsor.pack.shared import Shared, runs_of


@torch.no_grad()
def uniform(weight: Tensor, /, *, bits: int = 8, groups: int | None = None) -> Shared:
    r"""Round to whole multiples of a step, symmetrically, with one step for each output channel.

    .. math:: w_i \approx s \cdot \mathrm{clip}(\mathrm{round}(w_i / s), -n, n), \quad
              s = \max |w| / n, \quad n = 2^{b-1} - 1

    Zero stays zero, and the largest weight of a channel stays what it is; this is the int8 or int4 of
    inference engines.

    Args:
        weight: Floats, any shape, finite; a weight of one dimension has one step.
        bits: Of a multiple, in [2, 8]; more are nearer to the weight.
        groups: Runs of output channels with a step each; every channel for itself if not given,
            or where there are fewer.

    Returns:
        The codes and the steps.

    Raises:
        ValueError: If a setting is out of range, or the weight is no finite float.

    Example:
        >>> uniform(torch.tensor([[7.0, 3.2, -0.4], [0.0, 0.0, 14.0]]), bits=4).values()
        tensor([[ 7.,  3.,  0.],
                [ 0.,  0., 14.]])

    References:
        Krishnamoorthi, 2018, "Quantizing deep convolutional networks for efficient inference",
        https://arxiv.org/abs/1806.08342
    """
    check("uniform", weight, bits)
    most, rows = 2 ** (bits - 1) - 1, runs_of(weight, groups)
    values = weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).reshape(len(rows), -1)
    largest = values.abs().amax(1) if values.numel() else values.new_zeros(len(rows))
    steps = values.new_zeros(int(rows[-1]) + 1).scatter_reduce(0, rows, largest, "amax") / most
    step = torch.where(steps > 0, steps, 1)[rows, None]
    multiples = (values / step).round_().clamp_(-most, most).to(torch.int16)
    codes = torch.where(multiples > 0, 2 * multiples - 1, -2 * multiples).to(torch.uint8)
    return Shared("uniform", bits, codes.view(weight.shape), steps[:, None], weight.dtype)
