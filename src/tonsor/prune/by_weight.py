"""Importances that look at nothing but the weight."""

import zlib

import torch
from torch import Tensor


def magnitude(weight: Tensor, /, *, power: float = 1.0) -> Tensor:
    r"""Score a weight by its size: :math:`s = |w|^p`.

    Single weights are ordered alike by every power. A pattern that sums scores makes it the norm of the unit:
    power 1 orders channels by their 1-norm, power 2 by their 2-norm.

    Args:
        weight: Shape `(out, in, ...)`.
        power: The exponent, above 0; a higher one lets the largest weights of a unit speak for it. Any but 1
            is computed in float32 at least, so that half precision neither overflows nor vanishes.

    Returns:
        The scores, shaped like the weight.

    Raises:
        ValueError: If the power is not above 0.

    Example:
        >>> magnitude(torch.tensor([3.0, -4.0, 0.0]))
        tensor([3., 4., 0.])
        >>> magnitude(torch.tensor([3.0, -4.0, 0.0]), power=2.0)
        tensor([ 9., 16.,  0.])

    References:
        Han et al., 2015, "Learning both Weights and Connections", https://arxiv.org/abs/1506.02626
        Li et al., 2017, "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710
    """
    if not power > 0:
        raise ValueError(f"prune.magnitude: power must be above 0; got {power}")
    size = weight.detach().abs()
    return size if power == 1 else size.to(torch.promote_types(size.dtype, torch.float32)) ** power


def random(weight: Tensor, name: str, /, *, seed: int = 0) -> Tensor:
    r"""Score by chance: :math:`s \sim U[0, 1)`; the baseline every other importance has to beat.

    The numbers come from a generator of their own, started from the seed and the name, and are drawn on
    the CPU. So the global generator is not touched, every rank and every device sees the same scores, and
    what a sparsity removes every higher sparsity removes too.

    Args:
        weight: Shape `(out, in, ...)`; only its shape counts.
        name: The weight's name, so that equal shapes get different scores.
        seed: Another seed is another draw.

    Returns:
        The scores in float32, shaped like the weight.

    Example:
        >>> w = torch.zeros(1000)
        >>> scores = random(w, "w"); bool(0.45 < scores.mean() < 0.55)
        True
        >>> scores.equal(random(w, "w")), scores.equal(random(w, "w", seed=1))
        (True, False)

    References:
        Liu et al., 2022, "The Unreasonable Effectiveness of Random Pruning",
        https://arxiv.org/abs/2202.02643
    """
    # Seed and name are joined in 32 bits because torch's CPU generator reads no more of its seed.
    start = zlib.crc32(f"{seed} {name}".encode())
    generator = torch.Generator("cpu").manual_seed(start)
    return torch.rand(weight.shape, generator=generator, dtype=torch.float32).to(weight.device)
