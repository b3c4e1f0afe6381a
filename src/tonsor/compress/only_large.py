"""Small tensors go whole: they are few bytes and matter much."""

from typing import Any, final

from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.protocol import Averaged, Compressor


@final
class OnlyLarge:
    """Compress large tensors only; send whole what is small or has fewer than two dimensions.

    In a network of normal size biases and scales are less than a hundredth of the bytes, and their errors
    a large part of what compression does to the loss. One message more, a mean, and none where nothing
    is small.

    Args:
        compressor: The rule that is wrapped.
        min_numel: Elements from which on a tensor is compressed; bigger sends more tensors whole.

    Example:
        >>> import torch
        >>> from tonsor.compress import TopK
        >>> rule = OnlyLarge(TopK(density=0.25), min_numel=3)
        >>> g = {"small": torch.tensor([[1.0, 2.0]]), "large": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
        >>> rule(g, Comm()).mean
        {'small': tensor([[1., 2.]]), 'large': tensor([[0., 0., 0., 4.]])}
    """

    def __init__(self, compressor: Compressor, /, *, min_numel: int = 1024) -> None:
        self.compressor = compressor
        self.min_numel = min_numel

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of the small, and what the wrapped rule makes of the large."""
        large = {n: g for n, g in grads.items() if g.ndim >= 2 and g.numel() >= self.min_numel}
        small = {name: grad for name, grad in grads.items() if name not in large}
        mean, sent = dense(small, comm)
        if large:
            averaged = self.compressor(large, comm)
            mean.update(averaged.mean)
            sent.update(averaged.sent)
        return Averaged(mean, sent)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped rule."""
        return {"compressor": state_of(self.compressor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        load_state(self.compressor, state["compressor"])

    def __repr__(self) -> str:
        return f"OnlyLarge({self.compressor!r}, min_numel={self.min_numel})"
