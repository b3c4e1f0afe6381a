"""Share out how many units each tensor loses: exact in sum, and never fewer at a higher sparsity."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from tonsor.prune.select import keep_highest

HALVINGS = 64  # of the way, so that its two ends are neighbouring floats


def allocate(sizes: Sequence[int], path: Callable[[float], Sequence[float]], count: int, /) -> list[int]:
    """Return how many units each tensor loses when all together lose `count`.

    A path says how much each tensor has lost at each point of the way, in fractions of units. The point is
    sought at which the amounts, rounded one by one, make up the count (Webster's method, which never takes
    anything back when there is more to share out). Of tensors that round up at the same point the one that
    stands first goes first.

    Args:
        sizes: Units of each tensor.
        path: Gives what each tensor has lost after a share of the way, from 0 (nothing) to 1 (everything, or
            as much as it may lose); no amount ever falls.
        count: How many go together, at most the sum at the end of the path.

    Returns:
        One number for each tensor.

    Example:
        >>> allocate([10, 20], lambda share: [10 * share, 20 * share], 4)
        [1, 3]
    """

    def rounded(share: float) -> list[int]:
        return [min(int(lost + 0.5), size) for lost, size in zip(path(share), sizes, strict=True)]

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(rounded(middle)) < count else (low, middle)
    lost, most = rounded(low), rounded(high)
    for index, end in enumerate(most):
        lost[index] += min(end - lost[index], count - sum(lost))
    return lost


def keep_allocated(
    units: Mapping[str, Tensor], path: Callable[[float], Sequence[float]], sparsity: float, /
) -> dict[str, Tensor]:
    """Return which units stay when each tensor loses its lowest, as many as are allocated to it.

    Args:
        units: Scores by name, of any shape.
        path: As `allocate` takes it.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go.

    Returns:
        One boolean for each unit, true where it stays.

    Example:
        >>> import torch
        >>> halves = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0, 3.0])}
        >>> keep_allocated(halves, lambda share: [2 * share, 2 * share], 0.5)
        {'a': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    sizes = [unit.numel() for unit in units.values()]
    lost = allocate(sizes, path, round(sparsity * sum(sizes)))
    return {
        name: keep_highest([units[name]], gone / max(1, size))[0]
        for name, gone, size in zip(units, lost, sizes, strict=True)
    }
