"""Clip all gradients together by their joint norm."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tonsor.tensors import flat_views, gradients, joint_norm, scale_


def global_norm(parameters: Sequence[Tensor], /, *, max_norm: float = 1.0) -> Tensor:
    r"""Scale all gradients so that their joint norm is at most a bound.

    :math:`g \leftarrow g \cdot \min(1,\; C / \|g\|_2)`. The direction stays. Where the norm is not
    finite nothing is changed: scaling would set every sound gradient to zero.

    Args:
        parameters: Tensors whose `.grad` is changed in place.
        max_norm: The bound C, above 0; smaller clips more. `inf` only measures.

    Returns:
        The joint 2-norm before, 0-dim.

    Raises:
        ValueError: If `max_norm` is not above 0.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> global_norm([w], max_norm=1.0)
        tensor(5.)
        >>> w.grad
        tensor([0.6000, 0.8000])

    References:
        Pascanu et al., 2013, "On the difficulty of training recurrent neural networks",
        https://arxiv.org/abs/1211.5063
    """
    grads = flat_views(gradients(parameters))  # once: the parameters may be a thousand
    norm, factor = _told(grads, max_norm, None)
    scale_(grads, factor)
    return norm


def _factor(
    parameters: Sequence[Tensor], /, *, max_norm: float = 1.0, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the joint norm and the factor of `global_norm`; nothing is written."""
    return _told(gradients(parameters), max_norm, scale)


def _told(grads: Sequence[Tensor], max_norm: float, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the joint norm of gradients and the factor that bounds it."""
    if not max_norm > 0:
        raise ValueError(f"clip.global_norm: max_norm must be above 0; got {max_norm}")
    norm = unscaled_norm(grads, scale)
    return norm, factor_to(norm, torch.full_like(norm, max_norm))


global_norm.factor = _factor  # type: ignore[attr-defined]  # see protocol.Scaling


def unscaled_norm(grads: Sequence[Tensor], scale: Tensor | None) -> Tensor:
    """Return the joint norm of gradients that are still multiplied by a loss scale."""
    norm = joint_norm(grads)
    return norm if scale is None else norm / scale.to(norm.device)


def factor_to(norm: Tensor, threshold: Tensor) -> Tensor:
    """Return min(1, threshold / norm), and 1 where either is not a number or the norm is infinite."""
    factor = (threshold / norm).clamp(max=1.0)
    return torch.where(norm.isfinite() & ~factor.isnan(), factor, torch.ones_like(norm))
