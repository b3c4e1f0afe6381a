"""Average in few-bit integers, summed in 32-bit floats."""

from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.codec import checked_block
from tonsor.compress.comm import Comm
from tonsor.compress.grid import Grid
from tonsor.compress.protocol import Averaged


def int8(grads: dict[str, Tensor], comm: Comm, /, *, block: int = 256) -> Averaged:
    r"""Send integers from -127 to 127, one scale a block, and sum in float32.

    :math:`C(x) = \frac{a}{127}\,\mathrm{round}(127\,x / a)` with a the largest magnitude of the block, so
    no element is off by more than :math:`a / 254`. About a quarter of the bytes of float32. How codes are
    averaged, and what is sent in full: see `tonsor.compress.all_reduce`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.
        block: Elements that share a scale, at least 1; smaller is closer and costs 4 bytes a block.

    Returns:
        The mean, and what this worker gave.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> import torch
        >>> int8({"w": torch.tensor([[127.0, -3.2, 0.4, 9.0]])}, Comm(), block=4).mean["w"]
        tensor([[127.,  -3.,   0.,   9.]])

    References:
        Dettmers, 2016, "8-Bit Approximations for Parallelism in Deep Learning",
        https://arxiv.org/abs/1511.04561
        Wang et al., 2023, "ZeRO++: Extremely Efficient Collective Communication for Giant Model
        Training", https://arxiv.org/abs/2306.10209
    """
    return all_reduce(grads, comm, Grid(levels=127, block=checked_block("int8", block)))


def int4(grads: dict[str, Tensor], comm: Comm, /, *, block: int = 256) -> Averaged:
    r"""Send integers from -7 to 7, two in a byte, one scale a block, and sum in float32.

    As `int8` with 7 in the place of 127: no element is off by more than :math:`a / 14`. About an eighth
    of the bytes of float32. Meant for error feedback: `ErrorFeedback(int4)`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.
        block: Elements that share a scale, at least 1; smaller is closer and costs 4 bytes a block.

    Returns:
        The mean, and what this worker gave.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> import torch
        >>> int4({"w": torch.tensor([[7.0, -3.2, 0.4, 5.0]])}, Comm(), block=4).mean["w"]
        tensor([[ 7., -3.,  0.,  5.]])

    References:
        Wang et al., 2023, "ZeRO++: Extremely Efficient Collective Communication for Giant Model
        Training", https://arxiv.org/abs/2306.10209
    """
    return all_reduce(grads, comm, Grid(levels=7, block=checked_block("int4", block)))
