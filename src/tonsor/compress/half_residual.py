"""Keep a sum in bfloat16 such that what rounding takes and gives comes to nothing over the steps."""

import torch
from torch import Tensor

SPAN = 1 << 16  # values of the lower half of a float32
TURN = 40503  # SPAN times the golden ratio: the thresholds of one element lie evenly, however many steps
PLACE = 27791  # odd, so that SPAN neighbours have SPAN different thresholds
UPPER = -SPAN  # selects the upper half: sign, exponent and 7 bits, which is a bfloat16
PIECE = (
    1 << 24
)  # elements at a time on a GPU; on a CPU SPAN of them stay in the cache, which is three times faster


def to_bfloat16(tensor: Tensor, turn: int, /) -> Tensor:
    r"""Round to bfloat16, up or down in turns: up as often as the number lies near its upper neighbour.

    Rounding to the nearest loses every summand that is small beside the sum, and a residual is such a sum.
    Here element k is rounded away from zero in turn t where the lower 16 bits of its float32 and the
    threshold :math:`(40503 t + 27791 k) \bmod 2^{16}` come to :math:`2^{16}` together. No random number is
    drawn.

    Args:
        tensor: Finite numbers.
        turn: Number of the step.

    Returns:
        Shaped as the tensor, in bfloat16.

    Example:
        >>> far = torch.full((65536,), 1 + 2**-9)   # a quarter of the way from 1 to its neighbour 1 + 2⁻⁷
        >>> (to_bfloat16(far, 0) > 1).sum()
        tensor(16384)
    """
    bits = tensor.to(torch.float32).contiguous().view(torch.int32).reshape(-1)
    piece = SPAN if bits.device.type == "cpu" else PIECE
    threshold = torch.arange(min(piece, bits.numel()), dtype=torch.int32, device=bits.device)
    threshold.mul_(PLACE).add_(turn * TURN % SPAN).bitwise_and_(SPAN - 1)
    rounded = torch.empty(bits.shape, dtype=torch.bfloat16, device=bits.device)
    sizes = [min(piece, bits.numel() - begin) for begin in range(0, bits.numel(), piece)]
    for source, target in zip(bits.split_with_sizes(sizes), rounded.split_with_sizes(sizes), strict=True):
        upper = (source + threshold[: source.numel()]).bitwise_and_(UPPER)
        target.copy_(upper.view(torch.float32))
    return rounded.view(tensor.shape)
