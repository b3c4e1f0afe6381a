"""Average on a coarse grid, rounded at random so that the mean is right."""

from typing import Any, final

from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.codec import checked_block
from tonsor.compress.comm import Comm
from tonsor.compress.draws import Streams
from tonsor.compress.grid import Grid, euclidean_norm
from tonsor.compress.protocol import Averaged


@final
class QSGD:
    r"""Send multiples of the block's norm over s, rounded up or down at random.

    :math:`C(x) = \frac{\lVert x \rVert_2}{s}\,\lfloor s\,x / \lVert x \rVert_2 + u \rfloor` with u uniform in
    [0, 1): what arrives is right in the mean, :math:`\mathrm{E}\,C(x) = x`, and
    :math:`\mathrm{E}\lVert C(x) - x \rVert^2 \le \min(d / s^2, \sqrt d / s)\,\lVert x \rVert^2` for a
    block of d elements. Where that factor is above 1, as with the paper's settings, error feedback must
    not be added: its residual would grow without end. With a block of at most `levels ** 2` elements it
    may. Codes have a fixed width of 2 (s = 1), 4 (s up to 7) or 8 bits, in the place of
    the paper's Elias code. Workers, names and steps have random numbers of their own, from no generator
    but `seed`. How codes are averaged, and what is sent in full: see `tonsor.compress.all_reduce`.

    Args:
        levels: The paper's s, 1 to 127; bigger sends more and is closer. 7 makes the paper's 4 bits.
        block: Elements that share a norm, at least 1; smaller is closer and costs 4 bytes a block.
        seed: Of the random numbers.

    Raises:
        ValueError: If `levels` or `block` is out of its range.

    Example:
        >>> import torch
        >>> rule = QSGD(levels=5)
        >>> rule({"w": torch.tensor([[3.0, 0.0], [0.0, -4.0]])}, Comm()).mean["w"]     # norm 5, so exact
        tensor([[ 3.,  0.],
                [ 0., -4.]])

    References:
        Alistarh et al., 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization and
        Encoding", https://arxiv.org/abs/1610.02132
    """

    def __init__(self, *, levels: int = 7, block: int = 512, seed: int = 0) -> None:
        if not 1 <= levels <= 127:
            raise ValueError(f"compress.QSGD: levels must lie in [1, 127]; got {levels}")
        self.levels = levels
        self.block = checked_block("QSGD", block)
        self.seed = seed
        self._streams = Streams(seed)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of the rounded gradients, and what this worker gave."""
        codec = Grid(levels=self.levels, block=self.block, measure=euclidean_norm)
        return all_reduce(grads, comm, codec, streams=self._streams)

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps each parameter has seen."""
        return {"steps": self._streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._streams.load_state_dict(state["steps"])

    def __repr__(self) -> str:
        return f"QSGD(levels={self.levels}, block={self.block}, seed={self.seed})"
