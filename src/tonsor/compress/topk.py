"""Send the largest elements of each gradient, as values and places."""

from typing import Any, final

from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.exchange import average_sparse, is_worth
from tonsor.compress.largest import largest
from tonsor.compress.message import check_bits
from tonsor.compress.protocol import Averaged
from tonsor.compress.sparse import Sparse, sparse


@final
class TopK:
    r"""Send the k elements of largest magnitude of each gradient, the rest as zeros.

    :math:`\bar g = \frac{1}{W} \sum_i \mathrm{top}_k(g_i)`, with k = max(1, round(density · n)) for a
    gradient of n elements. The selection is exact, its count as well where magnitudes tie: of equal ones
    the first in position are sent. k is taken tensor by tensor, so the result does not depend on how
    gradients were put into buckets. Each worker adds the contributions in the order of the ranks.

    A place takes about :math:`\log_2(n / k) + 2` bits on the wire, 12 at a density of 0.001, so that 4
    million float32 values shrink 727 times there, and 2000 times with 4 bits a value. Messages: a gather of
    all values and places, then a mean of what is sent in full; one that is empty is left out. What
    the gather costs on the wire grows with the number W of workers: a gradient of fewer than two dimensions
    is sent in full, and so is one for which W / 2 messages are not smaller than itself: float32
    from a density of about 2 / W. Without error feedback small elements are never sent: wrap it as
    `ErrorFeedback(TopK())`.

    Args:
        density: The fraction of elements sent, in (0, 1]; bigger sends more.
        bits: 16 or 2 to 8: bits a value, in levels between the smallest and the largest that is sent; more
            is closer. Error feedback makes up for what is lost. None: values as they are.

    Raises:
        ValueError: If `density` or `bits` is out of its range.

    Example:
        >>> import torch
        >>> g = {"w": torch.tensor([[1.0, -5.0, 0.0, 0.0], [2.0, 3.0, 0.0, 0.0]])}
        >>> TopK(density=0.125)(g, Comm()).mean
        {'w': tensor([[ 0., -5.,  0.,  0.],
                      [ 0.,  0.,  0.,  0.]])}

    References:
        Aji and Heafield, 2017, "Sparse Communication for Distributed Gradient Descent",
        https://arxiv.org/abs/1704.05021
    """

    def __init__(self, *, density: float = 0.01, bits: int | None = None) -> None:
        check_density("compress.TopK", density)
        check_bits("compress.TopK", bits)
        self.density = density
        self.bits = bits

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of the selected elements, and those this worker selected."""
        counts = {name: count_of(grad, self.density) for name, grad in grads.items()}
        alone = [name for name, grad in grads.items() if is_worth(grad, counts[name], self.bits, comm)]
        parts = {name: take_largest(grads[name], counts[name]) for name in alone}
        averaged = average_sparse(parts, grads, comm, bits=self.bits)
        whole = dense({name: grad for name, grad in grads.items() if name not in parts}, comm)
        return Averaged(averaged.mean | whole.mean, averaged.sent | whole.sent)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: every step stands for itself."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""

    def __repr__(self) -> str:
        bits = "" if self.bits is None else f", bits={self.bits}"
        return f"TopK(density={self.density}{bits})"


def take_largest(tensor: Tensor, count: int, /) -> Sparse:
    """Return the elements of largest magnitude; of equal ones the first.

    Args:
        tensor: Any shape.
        count: How many.

    Returns:
        The elements.

    Example:
        >>> import torch
        >>> take_largest(torch.tensor([[1.0, -5.0], [2.0, 3.0]]), 2).values
        tensor([-5.,  3.])
    """
    flat = tensor.reshape(-1)
    places = largest(flat, count)
    return sparse(flat.take(places), places, flat.numel())


def count_of(tensor: Tensor, density: float, /) -> int:
    """Return how many elements are sent: one at least, where there is one.

    Args:
        tensor: Any shape.
        density: The fraction, in (0, 1].

    Returns:
        The count.

    Example:
        >>> import torch
        >>> count_of(torch.ones(100), 0.015), count_of(torch.ones(100), 0.001), count_of(torch.ones(0), 0.5)
        (2, 1, 0)
    """
    return min(tensor.numel(), max(1, round(density * tensor.numel())))


def check_density(where: str, density: float, /) -> None:
    """Refuse a density out of its range.

    Args:
        where: Who asks, for the message.
        density: The fraction.

    Raises:
        ValueError: If it does not lie in (0, 1].

    Example:
        >>> check_density("compress.TopK", 2.0)
        Traceback (most recent call last):
        ...
        ValueError: compress.TopK: density must lie in (0, 1]; got 2.0
    """
    if not 0 < density <= 1:
        raise ValueError(f"{where}: density must lie in (0, 1]; got {density}")
