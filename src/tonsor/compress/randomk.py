"""Send elements at random places, the same on all workers, without their places."""

from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.draws import Draws, Streams
from tonsor.compress.feedback import all_finite, either
from tonsor.compress.pages import fresh
from tonsor.compress.protocol import Averaged
from tonsor.compress.topk import check_density, count_of


@final
class RandomK:
    r"""Send k elements of each gradient at random places, which all workers draw alike.

    :math:`\bar g_P = \frac{1}{W} \sum_i g_{i,P}` at the places P of this step, and zero elsewhere, with k =
    max(1, round(density · n)) for a gradient of n elements. No place travels, and messages are added on
    their way, so the cost on the wire does not grow with the number of workers: one mean, of the values
    and of what is sent in full. The gradient is parted into k pieces that differ by one element at most,
    and one element is drawn from each: all are equally likely, none twice, and nothing has to be sorted. A
    place is told by seed, name and step alone; a step whose mean is not finite is not counted.

    As it is, error feedback belongs around it: `ErrorFeedback(RandomK())`. With `is_unbiased` what is sent
    is divided by its probability (about k / n), so that its expectation is the gradient and its variance
    n / k times larger; then without error feedback. Gradients of fewer than two dimensions are sent in full.
    A gradient that is not finite somewhere sends no finite value, so that all workers see it.

    Args:
        density: The fraction of elements sent, in (0, 1]; bigger sends more.
        is_unbiased: Whether values are divided by the probability with which they are sent.
        seed: Of the places, equal on all workers.

    Raises:
        ValueError: If `density` is out of its range.

    Example:
        >>> g = {"w": torch.ones(4, 25)}
        >>> mean = RandomK(density=0.1)(g, Comm()).mean["w"]
        >>> mean.count_nonzero(), mean.view(10, 10).sum(1)        # one of each ten
        (tensor(10), tensor([1., 1., 1., 1., 1., 1., 1., 1., 1., 1.]))

    References:
        Stich, Cordonnier and Jaggi, 2018, "Sparsified SGD with Memory", https://arxiv.org/abs/1809.07599
        Wangni et al., 2018, "Gradient Sparsification for Communication-Efficient Distributed Optimization",
        https://arxiv.org/abs/1710.09854
    """

    def __init__(self, *, density: float = 0.01, is_unbiased: bool = False, seed: int = 0) -> None:
        check_density("compress.RandomK", density)
        self.density = density
        self.is_unbiased = is_unbiased
        self.seed = seed
        self._streams = Streams(seed)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of the drawn elements, and those of this worker."""
        alone = [name for name, grad in grads.items() if self._saves(grad)]
        drawn, values = {}, {}
        for name in alone:
            draws = self._streams.draws(name, "places", grads[name].device)
            drawn[name], pieces = _one_of_each(draws, grads[name], self.density)
            taken = grads[name].reshape(-1).take(drawn[name])
            taken = taken * pieces.to(taken.dtype) if self.is_unbiased else taken
            values[name] = either(all_finite([grads[name]]), taken, torch.full_like(taken, torch.nan))
        whole = {name: grad for name, grad in grads.items() if name not in drawn}
        averaged = dense(values | whole, comm)
        for part in averaged:
            for name, places in drawn.items():
                grad = grads[name]
                zeros = fresh((grad.numel(),), grad.dtype, grad.device, is_zero=True)
                part[name] = zeros.scatter_(0, places, part[name]).view(grad.shape)
        self._streams.advance({name: averaged.mean[name] for name in drawn})
        return averaged

    def _saves(self, grad: Tensor) -> bool:
        """Tell whether fewer elements than all are sent of the gradient, a matrix at least."""
        return grad.ndim >= 2 and count_of(grad, self.density) < grad.numel()

    def state_dict(self) -> dict[str, Any]:
        """Return the steps by parameter name; they are the same on all workers."""
        return {"steps": self._streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._streams.load_state_dict(state["steps"])

    def __repr__(self) -> str:
        return f"RandomK(density={self.density}, is_unbiased={self.is_unbiased}, seed={self.seed})"


def _one_of_each(draws: Draws, grad: Tensor, density: float) -> tuple[Tensor, Tensor]:
    """Return a place in each of the pieces of the flat gradient, ascending, and the size of each piece."""
    count, device = count_of(grad, density), grad.device
    starts = torch.arange(count + 1, device=device) * grad.numel() // count
    sizes = starts.diff()
    bits = torch.empty(count, dtype=torch.int32, device=device)
    draws.bits_(bits, 0)
    below = ((bits.to(torch.int64) & 0xFFFFFFFF) * sizes) >> 32  # of 2 ** 32 equally likely numbers
    return starts.narrow(0, 0, count) + below, sizes
