"""Send the elements above a threshold, however many they are."""

import math
from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.exchange import average_sparse, is_worth
from tonsor.compress.largest import largest, largest_above, sampled
from tonsor.compress.message import check_bits
from tonsor.compress.protocol import Averaged
from tonsor.compress.sparse import Sparse, sparse
from tonsor.compress.topk import check_density, count_of

STAGE = 0.25  # the least fraction that one fit is asked to part off


@final
class Threshold:
    r"""Send the elements of each gradient whose magnitude reaches a threshold.

    With `value` the threshold is that number, always: near convergence little is sent, after a change
    of the loss much. Without, it is found anew for each gradient, so that about the fraction `density`
    reaches it, from exponential distributions fitted in stages:
    :math:`t_1 = \mathrm{mean}|g| \ln(1/\delta)`, and then
    :math:`t_{m+1} = t_m + \mathrm{mean}(|g| - t_m) \ln(1/\delta)` over what reaches :math:`t_m`, with equal
    :math:`\delta \ge 1/4` whose product is the density; of gradients of more than 65,536 elements a sample of
    so many is fitted. What is sent can be more or less than asked for; at most the fraction `most` is, the
    largest elements first.

    Zeros are never sent. Gradients of fewer than two dimensions are sent in full, and so is one for which
    the messages of all workers, at that density, would cost more than a mean (see `TopK`). Messages: a
    gather of lengths, a gather of values and places, filled up to the longest; then a mean of what is sent
    in full. On a GPU, where lengths would have to be waited for, each worker sends as many places as `most`
    allows, those below the threshold with zeros: choose it small there. Without error feedback small
    elements are never sent: wrap it as `ErrorFeedback(Threshold())`.

    Args:
        value: The threshold, above 0, in units of the gradient; bigger sends less. None: fitted to
            `density`.
        density: The fraction that is to be sent, in (0, 1], or with `value` is thought to be; bigger sends
            more.
        most: The largest fraction that may be sent, in (0, 1]; bounds what a step can cost.
        bits: 16 or 2 to 8: bits a value; more is closer. None: values as they are.

    Raises:
        ValueError: If one of them is out of its range.

    Example:
        >>> g = {"w": torch.zeros(10, 10).index_fill(1, torch.tensor(3), 2.0)}
        >>> g["w"][0] = 0.5
        >>> Threshold(value=1.0)(g, Comm()).mean["w"].count_nonzero()
        tensor(9)

    References:
        Strom, 2015, "Scalable Distributed DNN Training Using Commodity GPU Cloud Computing",
        https://www.isca-archive.org/interspeech_2015/strom15_interspeech.html
        Sahu et al., 2021, "Rethinking Gradient Sparsification as Total Error Minimization",
        https://arxiv.org/abs/2108.00951
        Abdelmoniem et al., 2021, "An Efficient Statistical-based Gradient Compression Technique for
        Distributed Training Systems", https://arxiv.org/abs/2101.10761
    """

    def __init__(
        self, *, value: float | None = None, density: float = 0.01, most: float = 0.1, bits: int | None = None
    ) -> None:
        if value is not None and not value > 0:
            raise ValueError(f"compress.Threshold: value must be above 0, or None; got {value}")
        check_density("compress.Threshold", density)
        if not 0 < most <= 1:
            raise ValueError(f"compress.Threshold: most must lie in (0, 1]; got {most}")
        check_bits("compress.Threshold", bits)
        self.value = value
        self.density = density
        self.most = most
        self.bits = bits

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of what reaches the threshold, and what did on this worker."""
        counts = {name: count_of(grad, self.density) for name, grad in grads.items()}
        alone = [name for name, grad in grads.items() if is_worth(grad, counts[name], self.bits, comm)]
        parts = {name: self._select(grads[name].reshape(-1)) for name in alone}
        is_ragged = any(part.values.device.type == "cpu" for part in parts.values())
        averaged = average_sparse(parts, grads, comm, bits=self.bits, is_ragged=is_ragged)
        whole = dense({name: grad for name, grad in grads.items() if name not in parts}, comm)
        return Averaged(averaged.mean | whole.mean, averaged.sent | whole.sent)

    def _select(self, flat: Tensor) -> Sparse:
        """Return what reaches the threshold, the largest of it where it is too much."""
        threshold, limit = self._threshold(flat), count_of(flat, self.most)
        if flat.device.type == "cpu":
            places = largest_above(flat, threshold, limit)
            return sparse(flat.take(places), places, flat.numel())
        places = largest(flat, limit)
        values = flat.take(places)
        return sparse(torch.where(values.abs() < threshold, 0, values), places, flat.numel())

    def _threshold(self, flat: Tensor) -> Tensor:
        """Return the threshold for a gradient, 0-dim, in its type."""
        if self.value is not None:
            return torch.full((), self.value, dtype=flat.dtype, device=flat.device)
        return fitted_threshold(flat, self.density)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: every step stands for itself."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""

    def __repr__(self) -> str:
        tuned = f"value={self.value}, density={self.density}, most={self.most}, bits={self.bits}"
        return f"Threshold({tuned})"


def fitted_threshold(values: Tensor, density: float, /) -> Tensor:
    """Return a magnitude that about a fraction of all elements reaches, from exponential fits in stages.

    Args:
        values: Vector of one number at least.
        density: The fraction, in (0, 1].

    Returns:
        0-dim, of the type of `values`; at most the largest magnitude that was looked at, so that
        something reaches it.

    Example:
        >>> t = fitted_threshold(-torch.log(torch.linspace(0.0005, 0.9995, 1000)), 0.01)
        >>> f"{t:.1f}"                              # ln 100
        '4.6'
    """
    sizes = sampled(values).to(torch.promote_types(values.dtype, torch.float32)).abs()
    stages = max(1, math.ceil(math.log(density) / math.log(STAGE)))
    step = -math.log(density) / stages
    threshold = sizes.new_zeros(())
    for _ in range(stages):
        beyond = sizes >= threshold
        excess = torch.where(beyond, sizes - threshold, 0).sum() / beyond.sum().clamp(min=1)
        threshold = threshold + excess * step
    return threshold.minimum(sizes.amax()).to(values.dtype)
