"""Clip each unit's gradient by the norm of its weights."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from tonsor.clip.compose import Clip
from tonsor.clip.slices import PerUnit
from tonsor.clip.threshold import relative
from tonsor.clip.units import UnitDim


def agc(
    parameters: Sequence[Tensor],
    /,
    *,
    clipping: float = 0.01,
    eps: float = 1e-3,
    unit_dim: UnitDim = 0,
) -> Tensor:
    r"""Scale each unit's gradient to a share of the norm of its weights (adaptive gradient clipping).

    :math:`g_i \leftarrow g_i \min(1, \lambda \max(\|w_i\|, \epsilon)/\|g_i\|)` for each unit i: the row
    of a linear layer, the filter of a convolution; a bias is one unit. All parameters of the list are
    clipped. The paper leaves out the last layer: pass the others, or a `unit_dim` that returns None for it.

    Args:
        parameters: Tensors whose `.grad` is changed in place.
        clipping: The share :math:`\lambda`, above 0; smaller clips more. The paper's 0.01 is for batches of
            4096; smaller batches want more.
        eps: What a smaller weight norm counts as, above 0, so that weights that start at zero can move.
        unit_dim: Which dimension indexes the units, or several; see `PerUnit`. For a model with
            transposed convolutions or stacked experts use `tonsor.clip.unit_dims(model)`.

    Returns:
        The joint 2-norm before, 0-dim.

    Raises:
        ValueError: If `clipping` or `eps` is not above 0.

    Example:
        >>> import torch
        >>> w = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
        >>> w.grad = torch.tensor([[6.0, 8.0], [0.03, 0.04]])
        >>> joint = agc([w], clipping=0.1, eps=0.1); w.grad
        tensor([[0.3000, 0.4000],
                [0.0060, 0.0080]])

    References:
        Brock et al., 2021, "High-Performance Large-Scale Image Recognition Without Normalization",
        https://arxiv.org/abs/2102.06171
    """
    for name, value in (("clipping", clipping), ("eps", eps)):
        if not value > 0:
            raise ValueError(f"clip.agc: {name} must be above 0; got {value}")
    return Clip(PerUnit(unit_dim=unit_dim), partial(relative, clipping=clipping, eps=eps))(parameters)
