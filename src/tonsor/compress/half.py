"""Average in 16 bits, summed in 32."""

import torch
from torch import Tensor

from tonsor.compress.all_reduce import all_reduce
from tonsor.compress.codec import checked_block
from tonsor.compress.comm import Comm
from tonsor.compress.floats import Floats, Halves
from tonsor.compress.protocol import Averaged


def fp16(grads: dict[str, Tensor], comm: Comm, /, *, block: int = 256) -> Averaged:
    """Send float16 numbers, each block moved into the middle of their range, and sum in float32.

    A block is divided by a power of two before it is cast. So an element of more than 65504 does not
    overflow, one of less than 6e-8 does not vanish, and what float16 can express is kept to the last bit;
    11 bits of each number are kept down to 2**-29 of the largest of its block, and what is below 2**-40
    of it becomes zero. Half the bytes of float32. How codes are averaged, and what is sent in full:
    see `tonsor.compress.all_reduce`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.
        block: Elements that are moved together, at least 1; smaller costs 4 bytes a block and more.

    Returns:
        The mean, and what this worker gave.

    Raises:
        ValueError: If `block` is out of its range.

    Example:
        >>> fp16({"w": torch.full((4, 4), 1e9)}, Comm(), block=4).mean["w"][0, 0].item()
        999817216.0

    References:
        Micikevicius et al., 2018, "Mixed Precision Training", https://arxiv.org/abs/1710.03740
    """
    return all_reduce(grads, comm, Floats(torch.float16, block=checked_block("fp16", block), top=14))


def bf16(grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
    """Send bfloat16 numbers and sum in float32: half the bytes, 8 bits of each number kept.

    The range is that of float32, so nothing vanishes and nothing below 3.39e38 overflows. How codes are
    averaged, and what is sent in full: see `tonsor.compress.all_reduce`.

    Args:
        grads: Gradients by parameter name.
        comm: The workers.

    Returns:
        The mean, and what this worker gave.

    Example:
        >>> bf16({"w": torch.full((4, 4), 1.001)}, Comm()).mean["w"][0, 0]
        tensor(1.)

    References:
        Kalamkar et al., 2019, "A Study of BFLOAT16 for Deep Learning Training",
        https://arxiv.org/abs/1905.12322
    """
    return all_reduce(grads, comm, Halves())
