"""Ascending places as few bits: the gaps between them in Rice's code."""

import torch
from torch import Tensor

from tonsor.compress.largest import first_marked


def rice_low_bits(numel: int, count: int, /) -> int:
    r"""Return how many low bits of each gap are best sent as they are, for places known only by number.

    A gap of g takes `low + 1 + (g >> low)` bits, and all gaps together are at most :math:`n - k`. The
    number that makes the longest possible code the shortest is about the logarithm of n / k.

    Args:
        numel: n, the elements of the tensor.
        count: k, how many of them are named.

    Returns:
        The number of low bits.

    Example:
        >>> rice_low_bits(4_000_000, 4_000)
        9
    """
    near = (numel // max(count, 1)).bit_length()
    return min(
        range(max(0, near - 2), near + 1), key=lambda low: (count * low + high_bits(numel, count, low), low)
    )


def high_bits(numel: int, count: int, low: int, /) -> int:
    """Return the most bits that the high parts of the gaps can take.

    Args:
        numel: The elements of the tensor.
        count: How many of them are named.
        low: The low bits of a gap, which are sent as they are.

    Returns:
        One bit for each place, and one for each time 2 ** low fits into what is not named.

    Example:
        >>> high_bits(4_000_000, 4_000, 9)
        11804
    """
    return count + ((numel - count) >> low) if count else 0


def rice_encode(places: Tensor, low: int, length: int, /) -> tuple[Tensor, Tensor]:
    """Return the gaps between ascending places as bits.

    Args:
        places: Ascending places, int64, shape `(k,)`.
        low: The low bits of a gap.
        length: Bits for the high parts, enough for these places; what is over is zeros.

    Returns:
        The low bits, plane by plane, uint8 of shape `(low · k,)`; and for each gap as many zeros as its
        high part says, then a one, uint8 of shape `(length,)`.

    Example:
        >>> lows, highs = rice_encode(torch.tensor([0, 3, 9]), 1, 6)      # gaps 0, 2, 5
        >>> lows.tolist(), highs.tolist()
        ([0, 0, 1], [1, 0, 1, 0, 0, 1])
    """
    gaps = places.diff(prepend=places.new_full((1,), -1)) - 1
    planes = [((gaps >> plane) & 1).to(torch.uint8) for plane in range(low)]
    ends = (gaps >> low).cumsum(0) + torch.arange(gaps.numel(), device=gaps.device)
    highs = torch.zeros(length, dtype=torch.uint8, device=gaps.device)
    highs.scatter_(0, ends, torch.ones_like(ends, dtype=torch.uint8))
    empty = torch.empty(0, dtype=torch.uint8, device=gaps.device)
    return torch.cat([empty, *planes]), highs


def rice_decode(lows: Tensor, highs: Tensor, count: int, /) -> Tensor:
    """Return the places that `rice_encode` took.

    Args:
        lows: The low bits, plane by plane.
        highs: The high parts, with `count` ones in it.
        count: How many places there are.

    Returns:
        Ascending places, int64, shape `(count,)`.

    Raises:
        ValueError: If the high parts have fewer ones; on the CPU alone, elsewhere nobody looks.

    Example:
        >>> lows, highs = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1, 0, 0, 1])
        >>> rice_decode(lows, highs, 3)
        tensor([0, 3, 9])
    """
    low = lows.numel() // count if count else 0
    ends = first_marked(highs.bool(), count)
    if ends.numel() < count:
        raise ValueError(f"rice_decode: {count} places have {ends.numel()} ends; the code was damaged")
    gaps = (ends.diff(prepend=ends.new_full((1,), -1)) - 1) << low
    for plane, bits in enumerate(lows.view(low, count).unbind()):
        gaps |= bits.to(torch.int64) << plane
    return (gaps + 1).cumsum(0) - 1
