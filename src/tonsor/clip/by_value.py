"""Clip every element of the gradient by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tonsor.tensors import ROW, can_look, clamp_, flat_views, gradients, joint_norm

CACHED = 1 << 18  # elements of a block: 1 MiB
LEAST = 1e-11  # the norm below which a square may have left float32's range


def value(parameters: Sequence[Tensor], /, *, clip_value: float = 1.0) -> Tensor:
    r"""Clamp every gradient element to a bound: :math:`g \leftarrow \mathrm{clamp}(g, -C, C)`.

    The direction of the gradient may change. Of a complex element both parts are clamped. An infinite
    element is clamped like any other, one that is not a number stays and shows in the returned norm.

    Args:
        parameters: Tensors whose `.grad` is changed in place.
        clip_value: The bound C, above 0, in units of the gradient; smaller clips more.

    Returns:
        The joint 2-norm before, 0-dim.

    Raises:
        ValueError: If `clip_value` is not above 0.

    Example:
        >>> w = torch.zeros(3, requires_grad=True); w.grad = torch.tensor([3.0, -4.0, 0.5])
        >>> norm = value([w], clip_value=1.0); w.grad
        tensor([ 1.0000, -1.0000,  0.5000])

    References:
        Mikolov, 2012, "Statistical Language Models Based on Neural Networks" (thesis)
    """
    if not clip_value > 0:
        raise ValueError(f"clip.value: clip_value must be above 0; got {clip_value}")
    found: list[Tensor] = []
    others: list[Tensor] = []
    for grad in flat_views(gradients(parameters)):
        if _is_long(grad):
            body = grad.numel() // ROW * ROW
            found += _in_one_pass(grad.view(-1)[:body].view(-1, ROW), clip_value)
            others += [grad.view(-1)[body:]] if body < grad.numel() else []
        else:
            others.append(grad)
    norm = joint_norm(others)
    clamp_(others, clip_value)
    if not found:
        return norm
    squares = torch.cat([*found, norm.reshape(1).to(found[0].device)]).double().square()
    return squares.sum().sqrt().to(norm)


def _is_long(grad: Tensor) -> bool:
    """Return whether a gradient is plain, of float32, and longer than the cache."""
    return can_look(grad) and grad.dtype is torch.float32 and grad.is_contiguous() and grad.numel() > CACHED


@torch.no_grad()
def _in_one_pass(rows: Tensor, bound: float) -> list[Tensor]:
    """Clamp rows block by block, each while the cache holds it from being measured; return their norms."""
    found = []
    for block in torch.split(rows, CACHED // ROW):
        norms = torch.linalg.vector_norm(block, dim=1)
        if not LEAST < norms.sum().item() < torch.inf:  # out of float32's range, or not a number
            norms = joint_norm([block]).reshape(1)
        found.append(norms)
        block.clamp_(-bound, bound)
    return found
