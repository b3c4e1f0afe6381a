"""Clip, and know the joint norm after it without a second pass where the rule tells its factor."""

from collections.abc import Callable, Sequence

from torch import Tensor

from tonsor.clip.protocol import factor_of
from tonsor.tensors import gradients, joint_norm, scale_


def measure(parameters: Sequence[Tensor], /) -> Tensor:
    """Return the joint gradient norm and clip nothing: what a recipe without `clip` uses.

    Example:
        >>> import torch
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> measure([w])
        tensor(5.)
    """
    return joint_norm(gradients(parameters))


def bounded(clip: Callable[..., Tensor], parameters: Sequence[Tensor], /) -> tuple[Tensor, Tensor]:
    """Clip by a rule, and return the joint norm before and after.

    A rule that multiplies all gradients by one number tells it (`clip.Scaling`), and that number times the
    norm is the norm after; the gradients that another rule left are measured once more.

    Example:
        >>> import torch
        >>> from tonsor.clip import global_norm, norm
        >>> w = torch.zeros(2, requires_grad=True)
        >>> for rule in (global_norm, norm, measure):
        ...     w.grad = torch.tensor([3.0, 4.0]); print(*bounded(rule, [w]))
        tensor(5.) tensor(1.)
        tensor(5.) tensor(1.)
        tensor(5.) tensor(5.)
    """
    tell = factor_of(clip)
    if tell is not None:
        norm, factor = tell(parameters)
        scale_(gradients(parameters), factor)
        return norm, norm * factor
    norm = clip(parameters)
    return norm, norm if clip is measure else measure(parameters)
