"""Average in powers of two, rounded at random so that the mean is right."""

from typing import Any, final

from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.comm import Comm
from tonsor.compress.draws import Streams
from tonsor.compress.powers import Powers
from tonsor.compress.protocol import Averaged


@final
class Natural:
    r"""Send each number's sign and a neighbouring power of two, in 9 bits.

    For :math:`2^k \le |x| < 2^{k+1}`: :math:`C(x) = \mathrm{sign}(x)\,2^{k+1}` with probability
    :math:`|x| / 2^k - 1`, else :math:`\mathrm{sign}(x)\,2^k`. So :math:`\mathrm{E}\,C(x) = x` and
    :math:`\mathrm{E}\,(C(x) - x)^2 \le x^2 / 8`, at any size of x and without a scale. What is not a
    number arrives as infinite, and what lies above 2**127 may. Workers, names and steps have random
    numbers of their own, from no generator but `seed`. How codes are averaged, and what is sent in full:
    see `tonsor.compress.all_reduce`.

    Args:
        seed: Of the random numbers.

    Example:
        >>> import torch
        >>> rule = Natural()
        >>> rule({"w": torch.tensor([[0.25, -8.0], [0.0, 1.0]])}, Comm()).mean["w"]
        tensor([[ 0.2500, -8.0000],
                [ 0.0000,  1.0000]])

    References:
        Horváth et al., 2019, "Natural Compression for Distributed Deep Learning",
        https://arxiv.org/abs/1905.10988
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._streams = Streams(seed)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of the rounded gradients, and what this worker gave."""
        return all_reduce(grads, comm, Powers(), streams=self._streams)

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps each parameter has seen."""
        return {"steps": self._streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._streams.load_state_dict(state["steps"])

    def __repr__(self) -> str:
        return f"Natural(seed={self.seed})"
