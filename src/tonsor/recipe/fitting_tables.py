"""What zeros and bits save in bytes: measured once, to foresee what can fit."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

from torch import Tensor

from tonsor.pack import Sharing, pack
from tonsor.recipe.fitting_maker import magnitudes

SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.995)
BITS = (2, 4, 8)
LARGE = 1 << 18  # elements of a weight of which the sizes are measured; more are taken to be like them
NAMED = 150  # bytes of the file's header for each tensor
STEPS = 12  # halvings of a sparsity
HIGHEST = 0.99  # sparsity that is tried

Sizes = dict[str, dict[str, list[float]]]  # by weight and bits: bytes an element at each sparsity


def size_table(weights: Mapping[str, Tensor], sharing: Sharing) -> Sizes:
    """Measure the bytes of an element of each weight, by number of bits, at each of `SPARSITIES`.

    Args:
        weights: Of the dense model.
        sharing: How values are shared.

    Example:
        >>> import torch
        >>> from tonsor.pack import kmeans
        >>> table = size_table({"w": torch.randn(64, 64)}, kmeans)
        >>> table["w"]["8"][0] > table["w"]["2"][0] > table["w"]["2"][3]
        True
    """
    found: Sizes = {}
    for name, whole in weights.items():
        weight = whole.detach().flatten(1)
        weight = weight[: max(1, LARGE // weight.shape[1])]
        found[name] = {}
        for bits in BITS:
            cut = [
                weight.where(magnitudes({name: weight}, min(s, 1 - 1 / weight.numel()))[name], 0)
                for s in SPARSITIES
            ]
            sizes = [pack({name: part}, bits={name: bits}, sharing=sharing).bytes for part in cut]
            found[name][str(bits)] = [size / weight.numel() for size in sizes]
    return found


def foreseen(table: Sizes, weights: Mapping[str, Tensor], others: int, sparsity: float, bits: int) -> float:
    """Return about how many bytes the file of a model would have.

    Args:
        table: From `size_table`, of the dense model.
        weights: Of the model, perhaps narrower.
        others: Elements beside them.
        sparsity: Of all weights together.
        bits: 2, 4 or 8, of every weight.

    Example:
        >>> import torch
        >>> table = {"w": {"2": [0.25, 0.2, 0.15, 0.1, 0.05, 0.03, 0.02]}}
        >>> foreseen(table, {"w": torch.ones(100, 100)}, 0, 0.0, 2)
        2650.0
    """
    masks = magnitudes(weights, sparsity)
    total = float(others + NAMED * len(weights))
    for name, mask in masks.items():
        kept = max(1 - SPARSITIES[-1], float(mask.double().mean()))
        total += mask.numel() * _between(table[name][str(bits)], kept)
    return total


def _between(sizes: list[float], density: float) -> float:
    """Return the bytes at a density, along a line in its logarithm."""
    points = list(zip((math.log(1 - s) for s in SPARSITIES), sizes, strict=True))
    at = math.log(density)
    for (left, more), (right, less) in pairwise(points):
        if right <= at <= left:
            return more + (less - more) * (at - left) / (right - left)
    return sizes[-1]


def least_sparsity(cost: Callable[[float], float], most: float) -> float | None:
    """Return the lowest sparsity whose cost is not above the most; nothing where none is.

    Args:
        cost: Of a sparsity; falls with it.
        most: The bound.

    Example:
        >>> round(least_sparsity(lambda s: 10 * (1 - s), 4), 3)
        0.6
    """
    if cost(0.0) <= most:
        return 0.0
    low, high = 0.0, HIGHEST
    if cost(high) > most:
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= most else (middle, high)
    return high
