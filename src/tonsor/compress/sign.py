"""Average signs, packed to bits, with one size for each block."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.bits import put
from tonsor.compress.codec import checked_block, tiles
from tonsor.compress.comm import Comm
from tonsor.compress.draws import Draws, Streams
from tonsor.compress.protocol import Averaged
from tonsor.compress.signs import Signs


def sign(grads: dict[str, Tensor], comm: Comm, /, *, block: int = 1024) -> Averaged:
    r"""Send one bit an element, and each block's mean magnitude.

    :math:`C(x) = \frac{\lVert x \rVert_1}{d}\,\mathrm{sign}(x)` for a block of d elements, coded on the
    way to the workers' sum and on the way back. It loses much: wrap it as `ErrorFeedback(sign)`, which
    with this two-way average is the blockwise method of Zheng et al. A block of zeros stays zero; a zero
    among other numbers is sent as positive, because a bit has no third value. Of float32, 31 times fewer
    bytes. How codes are averaged, and what is sent in full: see `tonsor.compress.all_reduce`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.
        block: Elements that share a size, at least 1; smaller is closer and costs 4 bytes a block. The
            paper takes a whole layer.

    Returns:
        The mean, and what this worker gave.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> sign({"w": torch.tensor([[4.0, -2.0], [3.0, 1.0]])}, Comm(), block=4).mean["w"]     # 10 / 4
        tensor([[ 2.5000, -2.5000],
                [ 2.5000,  2.5000]])

    References:
        Karimireddy et al., 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
        https://arxiv.org/abs/1901.09847
        Zheng et al., 2019, "Communication-Efficient Distributed Blockwise Momentum SGD with
        Error-Feedback", https://arxiv.org/abs/1905.10936
    """
    return all_reduce(grads, comm, Signs(block=checked_block("sign", block)))


@final
class MajorityVote:
    r"""Let every element's sign be that which most workers have.

    :math:`\bar g = S\,\mathrm{sign}(\sum_i \mathrm{sign}(g_i))`, where S is the mean over workers and
    block of the magnitudes: the paper's update is the sign of this mean, and S lets a learning rate keep
    its meaning. A worker whose block is zero does not vote; where a vote ends level, a private random
    number decides. The paper has no error feedback, and none must be added: a vote throws away by how much
    it was won, and residuals were measured to grow without end; for feedback take `sign`. Of float32,
    31 times fewer bytes. How codes are sent, and what is sent in full: see `tonsor.compress.all_reduce`.

    Args:
        block: Elements that share a size, at least 1; smaller costs 4 bytes a block.
        seed: Of what decides a level vote.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> MajorityVote()({"w": torch.tensor([[4.0, -2.0], [3.0, 1.0]])}, Comm()).mean["w"].sign()
        tensor([[ 1., -1.],
                [ 1.,  1.]])

    References:
        Bernstein et al., 2018, "signSGD: Compressed Optimisation for Non-Convex Problems",
        https://arxiv.org/abs/1802.04434
        Bernstein et al., 2019, "signSGD with Majority Vote is Communication Efficient And Fault
        Tolerant", https://arxiv.org/abs/1810.05291
    """

    def __init__(self, *, block: int = 1024, seed: int = 0) -> None:
        self.block = checked_block("MajorityVote", block)
        self.seed = seed
        self._streams = Streams(seed)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return what the vote gave, and this worker's own signs."""
        return all_reduce(grads, comm, Signs(block=self.block), streams=self._streams, fold=_vote)

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps each parameter has seen."""
        return {"steps": self._streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._streams.load_state_dict(state["steps"])

    def __repr__(self) -> str:
        return f"MajorityVote(block={self.block}, seed={self.seed})"


def _vote(shares: Sequence[Tensor], mean: Tensor, block: int, draws: Draws | None) -> Tensor:
    """Return the sign of most shares with the mean size of each block."""
    votes, size = torch.sign(shares[0]), shares[0].abs()
    for share in shares[1:]:
        votes.add_(share.sign())
        size.add_(share.abs())
    size.div_(len(shares))
    for _, rows in tiles(size, block):
        put(rows, rows.mean(1, keepdim=True).expand_as(rows))
    level = torch.empty_like(votes, dtype=torch.int32)
    if draws is not None:
        draws.bits_(level, 0)
    return size.copysign_(torch.where(votes == 0, level.to(votes.dtype), votes))
