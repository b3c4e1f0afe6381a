"""Statistics that come from the curvature of the loss."""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tonsor.prune.from_loss import gradients_of, wide
from tonsor.tensors import distinct

HELD = 32  # gradients of samples that wait for one matrix product; more is faster and takes more memory
ENTRIES = 1 << 24  # of the matrices inverted at a time, so that float64 copies stay small


class HessianGradient:
    r"""Gather the Hessian of the mean loss times its gradient: :math:`H g`, over the given weights.

    Both are means over all batches, so the graphs of ALL batches are held until the result is asked for:
    memory grows with their number. A single batch, as large as fits, is customary. Fused attention, which
    cannot be derived twice, is switched to its plain form meanwhile.

    Args:
        model: The model; nothing is hung on it.
        weights: Weights by name.

    Example:
        >>> w = torch.tensor([3.0, 1.0], requires_grad=True)
        >>> gathered = HessianGradient(nn.Module(), {"w": w})
        >>> gathered.add((w ** 2).sum())    # H = 2, g = 2 w
        >>> gathered.close()
        >>> gathered.result()
        {'w': tensor([12.,  4.])}

    References:
        Wang et al., 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        https://arxiv.org/abs/2002.07376
    """

    needs_loss = True

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], /) -> None:
        self._weights = dict(weights)
        self._distinct = distinct(weights.values())  # a tied weight is one variable, whatever it is called
        self._gradients: list[tuple[Tensor, ...]] = []  # one entry a batch, each with its graph
        self._plain = ExitStack()
        self._plain.enter_context(sdpa_kernel(SDPBackend.MATH))

    def add(self, loss: Tensor | None, /) -> None:
        """Hold the gradient of one batch's loss, with its graph."""
        self._gradients.append(gradients_of(loss, self._distinct, create_graph=True))

    def result(self) -> dict[str, Tensor]:
        """Return the product by weight, shaped like the weight; half precision gives float32."""
        batches = len(self._gradients)
        of_weights = zip(*self._gradients, strict=True)
        means = [torch.stack([g.detach() for g in each]).mean(0, dtype=wide(each[0])) for each in of_weights]
        sums = [torch.zeros_like(mean) for mean in means]
        while self._gradients:  # a batch's graph is let go as soon as it was used
            gradients = self._gradients.pop()
            with torch.enable_grad():
                pairs = zip(gradients, means, strict=True)
                product = torch.stack([(g * mean).sum() for g, mean in pairs]).sum()
            if product.requires_grad:  # not where the loss is linear in the weights
                found = torch.autograd.grad(
                    product, self._distinct, allow_unused=True, materialize_grads=True
                )
                for total, term in zip(sums, found, strict=True):
                    total.add_(term, alpha=1 / batches)
        products = {id(weight): total for weight, total in zip(self._distinct, sums, strict=True)}
        return {name: products[id(weight)] for name, weight in self._weights.items()}

    def close(self) -> None:
        """Give attention its fused form back."""
        self._plain.close()


class InverseFisher:
    r"""Gather the inverse of the empirical Fisher by blocks: :math:`(\lambda I + \overline{g_n g_n^T})^{-1}`.

    A block is `block` neighbours in the flattened weight; what lies between blocks counts as zero. The paper
    updates the inverse sample by sample (Sherman-Morrison); here the sum is gathered and inverted once, in
    float64, which is the same and needs no count of the samples beforehand. `collect` runs the model on one
    sample at a time for it. It takes `block` times the memory of the weights.

    Args:
        model: The model; nothing is hung on it.
        weights: Weights by name.
        damping: The :math:`\lambda`, above 0, in units of a squared gradient; a higher one trusts the
            samples less and comes nearer to magnitude.
        block: Weights in a block, at least 1; 1 is the diagonal. More costs memory.

    Raises:
        ValueError: If the damping or the block is out of its range.

    Example:
        >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> gathered = InverseFisher(nn.Module(), {"w": w}, damping=1.0)
        >>> gathered.add((w * torch.tensor([1.0, 2.0])).sum())
        >>> gathered.result()               # of [[2, 2], [2, 5]]
        {'w': tensor([[[ 0.8333, -0.3333],
             [-0.3333,  0.3333]]])}

    References:
        Singh and Alistarh, 2020, "WoodFisher: Efficient Second-Order Approximation for Neural Network
        Compression", https://arxiv.org/abs/2004.14340
    """

    needs_loss = True

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Tensor], /, *, damping: float = 1e-5, block: int = 64
    ) -> None:
        if not damping > 0 or block < 1:
            raise ValueError(
                "prune.collect: 'inverse_fisher' needs damping above 0 and block at least 1;"
                f" got damping={damping}, block={block}"
            )
        self._weights = dict(weights)
        self._damping = damping
        self._block = block
        self._held: dict[str, list[Tensor]] = {name: [] for name in weights}
        self._sums = {name: self._nothing(weight) for name, weight in weights.items()}
        self._samples = 0

    def add(self, loss: Tensor | None, /) -> None:
        """Take in the gradient of one sample's loss."""
        found = gradients_of(loss, list(self._weights.values()))
        for held, gradient in zip(self._held.values(), found, strict=True):
            held.append(gradient.flatten())
        self._samples += 1
        if self._samples % HELD == 0:
            self._empty()

    def result(self) -> dict[str, Tensor]:
        """Return the inverse by weight: `(blocks, block, block)`, a last block filled up with damping."""
        self._empty()
        return {name: self._inverse(total) for name, total in self._sums.items()}

    def close(self) -> None:
        """Do nothing: no hooks were hung."""

    def _nothing(self, weight: Tensor) -> Tensor:
        """Return zeros for the blocks of a weight."""
        block = max(1, min(self._block, weight.numel()))
        shape = -(-weight.numel() // block), block, block
        return torch.zeros(shape, dtype=wide(weight), device=weight.device)

    def _empty(self) -> None:
        """Add the outer products of the gradients that wait."""
        for name, held in self._held.items():
            total = self._sums[name]
            if held and len(total):
                rows = torch.stack(held).to(total.dtype)
                rows = nn.functional.pad(rows, (0, total.shape[0] * total.shape[1] - rows.shape[1]))
                columns = rows.view(len(held), *total.shape[:2]).permute(1, 2, 0)
                total.baddbmm_(columns, columns.mT)
            held.clear()

    def _inverse(self, total: Tensor) -> Tensor:
        """Return the inverses of damped blocks, a few at a time."""
        damping = self._damping * torch.eye(total.shape[1], dtype=torch.float64, device=total.device)
        for some in torch.split(total, max(1, ENTRIES // total.shape[1] ** 2)) if total.numel() else ():
            factor = torch.linalg.cholesky(some.double() / self._samples + damping)
            some.copy_(torch.cholesky_inverse(factor))
        return total
