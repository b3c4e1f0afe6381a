"""Send the largest frequencies of each tile of a gradient."""

from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.exchange import average_sparse, is_cheaper, is_used
from tonsor.compress.feedback import all_finite, either
from tonsor.compress.message import check_bits
from tonsor.compress.pages import fresh
from tonsor.compress.protocol import Averaged
from tonsor.compress.sparse import Sparse, planned, sparse
from tonsor.compress.tiling import Tiling
from tonsor.compress.topk import check_density


@final
class DCTTopK:
    r"""Send the largest coefficients of the discrete cosine transform of each tile of a gradient.

    A gradient is cut as a matrix (out, -1) into tiles of at most `tile` by `tile`, equally large, filled up
    with zeros at the end where they do not fit. :math:`\hat T = B T B^\top` with the orthonormal
    basis B of the cosine transform (type II); of each :math:`\hat T` the coefficients of largest magnitude
    travel, and the mean of all workers' is transformed back. The transform keeps lengths, so nothing is lost
    but the coefficients left out, and what is smooth along rows or columns needs few of them.

    With `momentum` this is the first half of DeMo: :math:`m \leftarrow \beta m + g`, of m the largest
    coefficients are sent and taken out, so slow components pile up on each worker until their turn. **The
    optimizer's own momentum must be 0 then**, and no `ErrorFeedback` belongs around it (it is the case
    :math:`\beta = 1`). The paper uses :math:`\beta = 0.999` and gives the optimizer the sign of the mean.
    m is kept by parameter name, in float32 at least; where the mean is not finite it stays as it was, and a
    gradient that is zero everywhere on this worker leaves it alone.

    Sent in full are gradients of fewer than two dimensions, and those for which the coefficients would not
    be cheaper than a mean (see `TopK`). Messages as of `TopK`; coefficients are float32 at least.

    Args:
        density: The fraction of each tile's coefficients that is sent, in (0, 1], one at least; bigger
            sends more. DeMo sends up to 32 of 4096.
        tile: Rows and columns of a tile at most; bigger finds what is smooth from afar and costs more time.
        momentum: :math:`\beta`, in [0, 1]; 0 keeps nothing.
        bits: 16 or 2 to 8: bits a coefficient; more is closer. None: as they are.

    Raises:
        ValueError: If one of them is out of its range, or what was kept does not have the gradient's shape.

    Example:
        >>> g = {"w": torch.full((8, 8), 3.0)}
        >>> mean = DCTTopK(density=0.01)(g, Comm()).mean["w"]      # a constant has one coefficient
        >>> torch.allclose(mean, g["w"])
        True

    References:
        Peng, Quesnelle and Kingma, 2024, "DeMo: Decoupled Momentum Optimization",
        https://arxiv.org/abs/2411.19870
    """

    own_state = ("residuals",)

    def __init__(
        self, *, density: float = 0.01, tile: int = 64, momentum: float = 0.0, bits: int | None = None
    ) -> None:
        check_density("compress.DCTTopK", density)
        if tile < 1:
            raise ValueError(f"compress.DCTTopK: tile must be at least 1; got {tile}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"compress.DCTTopK: momentum must lie in [0, 1]; got {momentum}")
        check_bits("compress.DCTTopK", bits)
        self.density = density
        self.tile = tile
        self.momentum = momentum
        self.bits = bits
        self._unsent: dict[str, Tensor] = {}

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of what is sent, and this worker's share."""
        wanted = {name: self._wanted(name, grad) for name, grad in grads.items()}
        tilings = {name: tiling for name, grad in grads.items() if (tiling := self._tiling(grad, comm))}
        parts = {name: _select(tiling, wanted[name], self.density) for name, tiling in tilings.items()}
        coefficients = {name: _like(part) for name, part in parts.items()}
        averaged = average_sparse(parts, coefficients, comm, bits=self.bits)
        whole = dense({n: wanted[n].to(grad.dtype) for n, grad in grads.items() if n not in tilings}, comm)
        for found, full in zip(averaged, whole, strict=True):
            for name, tiling in tilings.items():
                grad = grads[name]
                found[name] = tiling.together(found[name]).reshape(grad.shape).to(grad.dtype)
            found.update(full)
        if self.momentum:
            self._keep(grads, wanted, averaged)
        return averaged

    def _wanted(self, name: str, grad: Tensor) -> Tensor:
        """Return what is to be sent: the gradient and, unless it is zero, what is kept of those before."""
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        if not self.momentum:
            return wide
        kept = self._unsent.get(name)
        if kept is None:
            kept = torch.zeros_like(wide)
        if kept.shape != grad.shape:
            raise ValueError(
                f"compress.DCTTopK: what is kept for '{name}' has shape {tuple(kept.shape)}, its gradient "
                f"{tuple(grad.shape)}; load the state of this model, or start anew"
            )
        self._unsent[name] = kept.to(grad.device)
        return either(is_used(grad), wide.add(self._unsent[name], alpha=self.momentum), wide)

    def _keep(self, grads: dict[str, Tensor], wanted: dict[str, Tensor], averaged: Averaged) -> None:
        """Keep what was not sent, unless the mean is not finite or nothing was given."""
        finite = all_finite(list(averaged.mean.values()))
        for name, sent in averaged.sent.items():
            good = finite & is_used(grads[name])
            self._unsent[name] = either(good, wanted[name] - sent, self._unsent[name])

    def _tiling(self, grad: Tensor, comm: Comm) -> Tiling | None:
        """Return how the gradient is cut, if its coefficients are cheaper than itself."""
        if grad.ndim < 2 or grad.numel() == 0:
            return None
        rows, columns = grad.shape[0], grad.numel() // grad.shape[0]
        tiling = Tiling(rows, columns, _even(rows, self.tile), _even(columns, self.tile))
        size = tiling.height * tiling.width
        numel, count = tiling.tiles * size, tiling.tiles * _count(size, self.density)
        layout = planned([numel], [count], torch.promote_types(grad.dtype, torch.float32), self.bits)
        return tiling if is_cheaper(layout, grad, comm) else None

    def state_dict(self) -> dict[str, Any]:
        """Return m by parameter name; it differs from worker to worker: each saves and loads its own."""
        return {"residuals": dict(self._unsent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._unsent = dict(state["residuals"])

    def __repr__(self) -> str:
        tuned = f"tile={self.tile}, momentum={self.momentum}, bits={self.bits}"
        return f"DCTTopK(density={self.density}, {tuned})"


def _even(length: int, most: int) -> int:
    """Return the size of the fewest equal pieces that are at most so long; the last may stick out."""
    return -(-length // -(-length // most))


def _count(size: int, density: float) -> int:
    """Return how many coefficients of a tile are sent."""
    return max(1, round(density * size))


def _select(tiling: Tiling, tensor: Tensor, density: float) -> Sparse:
    """Return the largest coefficients of each tile."""
    numel = tiling.height * tiling.width
    values, places, first = [], [], 0
    for coefficients in tiling.apart(tensor):
        inside = coefficients.abs().topk(_count(numel, density), sorted=False).indices.sort(1).values
        values.append(coefficients.gather(1, inside).view(-1))
        starts = torch.arange(first, first + len(inside), device=tensor.device).unsqueeze(1) * numel
        places.append((inside + starts).view(-1))
        first += len(inside)
    return sparse(torch.cat(values), torch.cat(places), tiling.tiles * numel)


def _like(part: Sparse) -> Tensor:
    """Return a tensor that says how many coefficients there are, of what type, and where."""
    return fresh((part.numels[0],), part.values.dtype, part.values.device)
