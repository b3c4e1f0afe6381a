"""Average in three values, chosen at random so that the mean is right."""

from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.codec import checked_block
from tonsor.compress.comm import Comm
from tonsor.compress.draws import Streams
from tonsor.compress.grid import FLOOR, Grid, largest_magnitude
from tonsor.compress.protocol import Averaged


@final
class TernGrad:
    r"""Send -1, 0 or 1 times the block's largest magnitude, after large elements are clipped.

    :math:`C(x) = s\,\mathrm{sign}(x)\,b`, where b is 1 with probability :math:`|x| / s` and else 0, and
    s the largest magnitude after clipping to :math:`c\,\sigma`; sigma is the block's root mean square,
    which is its standard deviation where the mean is zero as the paper has it. Of the clipped gradient
    what arrives is right in the mean; what was clipped is lost, or sent later by error feedback. Two bits
    an element, of float32 about 16 times fewer bytes. Workers, names and steps have random numbers of
    their own, from no generator but `seed`. How codes are averaged, and what is sent in full: see
    `tonsor.compress.all_reduce`.

    Args:
        clip: The paper's c, above 0, in standard deviations; bigger clips less and is noisier. Infinite:
            nothing is clipped.
        block: Elements that share s and sigma, at least 1; smaller is closer and costs 4 bytes a block.
            The paper takes a whole layer.
        seed: Of the random numbers.

    Raises:
        ValueError: If `clip` or `block` is out of its range.

    Example:
        >>> rule = TernGrad()
        >>> rule({"w": torch.tensor([[3.0, 0.0], [0.0, -3.0]])}, Comm()).mean["w"]
        tensor([[ 3.,  0.],
                [ 0., -3.]])

    References:
        Wen et al., 2017, "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
        Learning", https://arxiv.org/abs/1705.07878
    """

    def __init__(self, *, clip: float = 2.5, block: int = 512, seed: int = 0) -> None:
        if not clip > 0:
            raise ValueError(f"compress.TernGrad: clip must be above 0; got {clip}")
        self.clip = clip
        self.block = checked_block("TernGrad", block)
        self.seed = seed
        self._streams = Streams(seed)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of the ternary gradients, and what this worker gave."""
        codec = Grid(levels=1, block=self.block, measure=self._largest_after_clipping)
        return all_reduce(grads, comm, codec, streams=self._streams)

    def _largest_after_clipping(self, rows: Tensor, work: Tensor) -> Tensor:
        """Return the largest magnitude, at most so many standard deviations."""
        top = largest_magnitude(rows, work)
        inverse = 1 / top.clamp(min=FLOOR)
        sigma = torch.mul(rows, inverse.unsqueeze(1), out=work).square_().mean(1).sqrt_()
        return top * (self.clip * sigma).clamp(max=1)

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps each parameter has seen."""
        return {"steps": self._streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._streams.load_state_dict(state["steps"])

    def __repr__(self) -> str:
        return f"TernGrad(clip={self.clip}, block={self.block}, seed={self.seed})"
