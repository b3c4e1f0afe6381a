"""Second moments of what a layer is fed, summed over batches."""

import torch
from torch import Tensor

from tonsor.prune.from_loss import wide
from tonsor.prune.layers import Layer, Raw


class Moments:
    r"""Sum :math:`x x^\top`, :math:`x_0 x^\top` and :math:`x_0 x_0^\top` over all samples and positions.

    :math:`x` is what a layer is fed now and :math:`x_0` what it was fed in the dense model. Products are
    taken in the inputs' type, float32 at least, and summed over the batches in float64.

    Args:
        layer: Says what the features of an input are.

    Example:
        >>> from torch import nn
        >>> from tonsor.prune.layers import layer_of
        >>> moments = Moments(layer_of(nn.Linear(2, 1), "weight"))
        >>> moments.add((torch.tensor([[3.0, 0.0], [1.0, 2.0]]),))
        >>> moments.gram, moments.mean
        (tensor([[[5., 1.],
                 [1., 2.]]], dtype=torch.float64), tensor([[2., 1.]], dtype=torch.float64))
    """

    def __init__(self, layer: Layer, /) -> None:
        self._layer = layer
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self.is_paired = False

    def add(self, now: Raw, dense: Raw | None = None, /) -> None:
        """Take in what the layer was fed, and what it was fed in the dense model where that differs."""
        if dense is None:
            for x in self._layer.features(now):
                self._take(x.to(wide(x)), None)
            return
        self.is_paired = True
        for x, before in zip(self._layer.features(now), self._layer.features(dense), strict=True):
            self._take(x.to(wide(x)), before.to(wide(x)))

    def _take(self, x: Tensor, before: Tensor | None) -> None:
        """Add the products of one piece."""
        self.count += x.shape[1]
        self._sum("gram", x.mT @ x)
        self._sum("mean", x.sum(1, dtype=torch.float64))
        if before is not None:
            self._sum("cross", before.mT @ x)
            self._sum("dense_gram", before.mT @ before)
            self._sum("dense_mean", before.sum(1, dtype=torch.float64))

    def _sum(self, name: str, value: Tensor) -> None:
        """Add to a sum in float64."""
        if name in self._sums:
            self._sums[name] += value
        else:
            self._sums[name] = value.double()

    def _mean(self, name: str, instead: str) -> Tensor:
        """Return a sum over the count; without dense inputs the current ones are the dense ones."""
        return self._sums[name if self.is_paired else instead] / self.count

    @property
    def gram(self) -> Tensor:
        """Mean of :math:`x x^T`, shape `(groups, features, features)`."""
        return self._mean("gram", "gram")

    @property
    def mean(self) -> Tensor:
        """Mean input, shape `(groups, features)`."""
        return self._mean("mean", "mean")

    @property
    def cross(self) -> Tensor:
        """Mean of :math:`x_0 x^T`."""
        return self._mean("cross", "gram")

    @property
    def dense_gram(self) -> Tensor:
        """Mean of :math:`x_0 x_0^T`."""
        return self._mean("dense_gram", "gram")

    @property
    def dense_mean(self) -> Tensor:
        """Mean of :math:`x_0`."""
        return self._mean("dense_mean", "mean")
