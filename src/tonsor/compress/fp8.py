"""Average in 8-bit floats, summed in 32 bits."""

import torch
from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.codec import checked_block
from tonsor.compress.comm import Comm
from tonsor.compress.floats import Floats
from tonsor.compress.protocol import Averaged


def e4m3(grads: dict[str, Tensor], comm: Comm, /, *, block: int = 256) -> Averaged:
    """Send 8-bit floats with 3 bits of mantissa, each block moved into their range, and sum in float32.

    4 bits of each number are kept down to 2**-13 of the largest of its block, where int8 keeps the more
    the larger a number is. About a quarter of the bytes of float32. How codes are averaged, and what is
    sent in full: see `tonsor.compress.all_reduce`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.
        block: Elements that are moved together, at least 1; smaller costs 4 bytes a block and more.

    Returns:
        The mean, and what this worker gave.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> e4m3({"w": torch.tensor([[1e6, 1.25e6] * 8])}, Comm(), block=4).mean["w"][0, :2]
        tensor([ 983040., 1310720.])

    References:
        Micikevicius et al., 2022, "FP8 Formats for Deep Learning", https://arxiv.org/abs/2209.05433
    """
    return all_reduce(grads, comm, Floats(torch.float8_e4m3fn, block=checked_block("e4m3", block), top=7))


def e5m2(grads: dict[str, Tensor], comm: Comm, /, *, block: int = 256) -> Averaged:
    """Send 8-bit floats with 2 bits of mantissa, each block moved into their range, and sum in float32.

    3 bits of each number are kept down to 2**-28 of the largest of its block: for gradients whose sizes
    lie far apart. About a quarter of the bytes of float32. How codes are averaged, and what is sent in
    full: see `tonsor.compress.all_reduce`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.
        block: Elements that are moved together, at least 1; smaller costs 4 bytes a block and more.

    Returns:
        The mean, and what this worker gave.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> e5m2({"w": torch.tensor([[1.0, 1.3] * 8])}, Comm(), block=4).mean["w"][0, :2]
        tensor([1.0000, 1.2500])

    References:
        Micikevicius et al., 2022, "FP8 Formats for Deep Learning", https://arxiv.org/abs/2209.05433
    """
    return all_reduce(grads, comm, Floats(torch.float8_e5m2, block=checked_block("e5m2", block), top=14))
