"""Each worker clips its own gradient before it is compressed."""

from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.pages import fresh
from tonsor.compress.protocol import Averaged, Compressor
from tonsor.norms import joint_norm


@final
class LocalClip:
    r"""Bound the norm of each worker's share in the mean: :math:`\|g_i / W\| \le W^{-1/2} c`.

    So :math:`g_i \leftarrow g_i \min(1, W^{1/2} c / \|g_i\|)`. Shares of W workers are nearly
    independent, so that norms of :math:`W^{-1/2} c` add up to a mean of norm c, which is what is bounded
    where no compression is. A spike is bounded before error feedback keeps it for many steps; so wrap this
    around `ErrorFeedback`: the other way round, what is clipped off would be sent later. What a worker
    clipped off is lost, and `sent` says what was sent after it.

    The norm is that of each tensor, because a bucket leaves before the other gradients are there, and a
    bucket's own norm would depend on how DDP fills it. A norm that is not finite leaves its gradient
    alone, for all to see.

    Args:
        compressor: The rule that is wrapped.
        max_norm: c, above 0, as the norm of a tensor's mean gradient would be bounded; smaller clips
            more.

    Raises:
        ValueError: If `max_norm` is not above 0.

    Example:
        >>> from tonsor.compress import dense
        >>> LocalClip(dense, max_norm=1.0)({"w": torch.tensor([3.0, 4.0])}, Comm()).mean
        {'w': tensor([0.6000, 0.8000])}

    References:
        Lin et al., 2018, "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed
        Training", section 3.1, https://arxiv.org/abs/1712.01887
    """

    def __init__(self, compressor: Compressor, /, *, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"compress.LocalClip: max_norm must be above 0; got {max_norm}")
        self.compressor = compressor
        self.max_norm = max_norm

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return what the wrapped rule makes of the clipped gradients."""
        bound = self.max_norm * comm.size**0.5
        return self.compressor({name: _clipped(grad, bound) for name, grad in grads.items()}, comm)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped rule."""
        return {"compressor": state_of(self.compressor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        load_state(self.compressor, state["compressor"])

    def __repr__(self) -> str:
        return f"LocalClip({self.compressor!r}, max_norm={self.max_norm})"


def _clipped(grad: Tensor, bound: float) -> Tensor:
    """Return the gradient with a norm of at most the bound."""
    norm = joint_norm([grad])
    factor = torch.where(norm.isfinite(), (bound / norm).clamp(max=1.0), 1.0)  # a norm of 0 gives inf, so 1
    return torch.mul(grad, factor.to(grad.dtype), out=fresh(grad.shape, grad.dtype, grad.device))
