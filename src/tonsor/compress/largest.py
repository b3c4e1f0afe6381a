"""Find the largest elements of a vector, exactly, in about the time of two copies."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TILE = 131_072  # elements looked at together: their keys and marks stay in the second-level cache
SAMPLE = 65_536  # elements that say where to look
KEYS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element

Ints = npt.NDArray[np.signedinteger]


def largest(values: Tensor, count: int, /) -> Tensor:
    """Return the places of the elements of largest magnitude, ascending; of equal ones the first.

    A sample of the vector gives a bound that a few more than `count` elements exceed; those are collected
    tile by tile and the exact bound is found among them. A sample that leads astray costs time, never
    exactness. Magnitudes are compared as integers, as which the bits of floating-point numbers have the
    same order, and a value that is not a number counts as larger than infinity. Nothing waits for a device
    other than the CPU: there the whole vector is searched at once.

    Args:
        values: Vector of n floating-point numbers.
        count: How many, in [0, n].

    Returns:
        Their places, int64, shape `(count,)`.

    Example:
        >>> largest(torch.tensor([0.0, 7.0, -5.0, 5.0, -9.0]), 3)
        tensor([1, 2, 4])
    """
    kind = KEYS[values.element_size()]
    bits, mask = values.detach().contiguous().view(kind), torch.iinfo(kind).max  # all bits but the sign
    if values.device.type != "cpu":
        return _at_once(bits & mask, count)
    if count in (0, values.numel()):
        return torch.arange(count)
    if bits.numel() <= TILE:
        return torch.from_numpy(np.flatnonzero(_keep(bits.numpy() & mask, count)))
    return torch.from_numpy(_in_tiles(bits.numpy(), mask, count))


def largest_above(values: Tensor, threshold: Tensor, limit: int, /) -> Tensor:
    """Return the places of elements whose magnitude reaches a threshold, ascending; zeros never do.

    Args:
        values: Vector of floating-point numbers, on the CPU.
        threshold: 0-dim, of their type, at least 0; one that is not a number counts as infinity.
        limit: The most places; where more reach the threshold, the largest are taken, of equal ones the
            first.

    Returns:
        int64 vector.

    Example:
        >>> largest_above(torch.tensor([0.0, 7.0, -5.0, 5.0, -9.0]), torch.tensor(5.0), 4)
        tensor([1, 2, 3, 4])
    """
    kind = KEYS[values.element_size()]
    bits, mask = values.detach().contiguous().view(kind).numpy(), torch.iinfo(kind).max
    ends = torch.stack([threshold, torch.full_like(threshold, torch.inf)]).view(kind).tolist()
    places, keys = _above(bits, mask, max(1, min(ends)) - 1)
    return torch.from_numpy(places if places.size <= limit else places[_keep(keys, limit)])


def sampled(values: Tensor, /) -> Tensor:
    """Return elements at random places, always the same, or all where there are not more.

    Args:
        values: Vector of n numbers.

    Returns:
        Vector of `min(n, SAMPLE)` of them.

    Example:
        >>> sampled(torch.ones(3))
        tensor([1., 1., 1.])
    """
    return values if values.numel() <= SAMPLE else values.take(_drawn(values.numel()).to(values.device))


def _in_tiles(bits: Ints, mask: int, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the largest keys; the bound is lowered until enough of them exceed it."""
    share = count / bits.size
    while True:
        bound = _bound(bits, mask, share)
        places, keys = _above(bits, mask, bound)
        if places.size >= count:
            return places[_keep(keys, count)]
        ties = _equal(bits, mask, bound, count - places.size)
        if places.size + ties.size == count:
            return np.sort(np.concatenate([places, ties]))
        share *= 2


def _bound(bits: Ints, mask: int, share: float) -> int:
    """Return a key that a bit more than this share of all keys should exceed, from a sample."""
    if bits.size <= SAMPLE:
        return -1
    drawn = _drawn(bits.size).numpy()
    expected = share * SAMPLE
    rank = int(expected + 4 * expected**0.5 + 2)  # four standard deviations of the count in the sample
    if rank >= SAMPLE:
        return -1
    return int(np.partition(bits[drawn] & mask, SAMPLE - rank)[SAMPLE - rank])


def _drawn(numel: int) -> Tensor:
    """Return the places of the sample: at random, because a stride may follow a column."""
    return torch.randint(numel, (SAMPLE,), generator=torch.Generator().manual_seed(0))


def _above(bits: Ints, mask: int, bound: int) -> tuple[npt.NDArray[np.int64], Ints]:
    """Return the places of all keys above the bound, ascending, and the keys."""
    keys, marks = np.empty(TILE, bits.dtype), np.empty(TILE, np.bool_)
    places, found = [np.empty(0, np.int64)], [np.empty(0, bits.dtype)]
    for start in range(0, bits.size, TILE):
        tile = bits[start : start + TILE]
        here, marked = keys[: tile.size], marks[: tile.size]
        np.bitwise_and(tile, mask, out=here)
        np.greater(here, bound, out=marked)
        hits = np.flatnonzero(marked)
        found.append(here[hits])
        hits += start
        places.append(hits)
    return np.concatenate(places), np.concatenate(found)


def _equal(bits: Ints, mask: int, bound: int, count: int) -> npt.NDArray[np.int64]:
    """Return the first places of keys that equal the bound, at most so many."""
    places: list[npt.NDArray[np.int64]] = []
    for start in range(0, bits.size, TILE):
        hits = np.flatnonzero((bits[start : start + TILE] & mask) == bound)[:count]
        places.append(hits + start)
        count -= hits.size
        if count == 0:
            break
    return np.concatenate(places)


def _keep(keys: Ints, count: int) -> npt.NDArray[np.bool_]:
    """Mark the largest keys, of equal ones the first."""
    bound = np.partition(keys, keys.size - count)[keys.size - count]
    marks: npt.NDArray[np.bool_] = keys > bound
    ties = np.flatnonzero(keys == bound)
    marks[ties[: count - np.count_nonzero(marks)]] = True
    return marks


def _at_once(keys: Tensor, count: int) -> Tensor:
    """Return what `_in_tiles` returns, without a look at any value."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=keys.device)
    bound = keys.topk(count, sorted=False).values.amin()
    ahead, ties = keys > bound, keys == bound
    return first_marked(ahead | (ties & (ties.cumsum(0) <= count - ahead.sum())), count)


def first_marked(marks: Tensor, count: int, /) -> Tensor:
    """Return the places of the first marks, ascending, without waiting for the device.

    Args:
        marks: Boolean vector with at least `count` marks.
        count: How many places are wanted.

    Returns:
        Places, int64, shape `(count,)`.

    Example:
        >>> first_marked(torch.tensor([False, True, False, True, True]), 2)
        tensor([1, 3])
    """
    if marks.device.type == "cpu":
        return marks.nonzero().view(-1)[:count]
    return _by_counting(marks, count)


def _by_counting(marks: Tensor, count: int) -> Tensor:
    """Return the places of the first marks: each is written to the slot that its number says."""
    order = marks.cumsum(0) - 1
    slots = torch.where(marks & (order < count), order, count)  # the last slot takes what is left over
    places = torch.empty(count + 1, dtype=torch.int64, device=marks.device)
    return places.scatter_(0, slots, torch.arange(marks.numel(), device=marks.device)).narrow(0, 0, count)
