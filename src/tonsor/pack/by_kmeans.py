"""Weights that share values found by k-means."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tonsor.pack.shared import Shared, group_rows, to_half

SMALL = 1 << 16  # elements up to which each is a point of its own; more are counted in so many bins
PROBE = 4096  # elements that tell whether there may be few values
TINY = 1e-30  # a spread below it, or above its inverse, is beyond single precision
CHUNK = 1 << 18  # elements that are looked at at once: they stay in the cache
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Floats = NDArray[np.float64]
Values = NDArray[Any]  # floats
Codes = NDArray[np.uint8]


def kmeans(weight: Tensor, /, *, bits: int = 4, groups: int = 1, rounds: int = 100) -> Shared:
    r"""Share values by k-means over the elements that are not zero, which stay zero.

    .. math:: \min_{c, T} \sum_{w_i \ne 0} (w_i - T_{c_i})^2

    by Lloyd's rounds from centroids spread evenly between the smallest and the largest weight, which lets
    the few large weights, those that matter, have centroids of their own. Where no more values than
    centroids occur, they are kept as they are. Centroids are rounded to half precision where they fit it.

    Args:
        weight: Floats, any shape, finite.
        bits: Of a code, in [2, 8]: zero and :math:`2^b - 1` values; more are nearer to the weight.
        groups: Runs of output channels with a table each, as far as there are so many channels; more are
            nearer to the weight, and longer.
        rounds: At most; it ends sooner where nothing moves.

    Returns:
        The codes and the table.

    Raises:
        ValueError: If a setting is out of range, or the weight is no finite float.

    Example:
        >>> shared = kmeans(torch.tensor([0.0, 1.0, 1.5, -3.0, 7.0, 8.0]), bits=2)
        >>> shared.values()
        tensor([ 0.0000,  1.2500,  1.2500, -3.0000,  7.5000,  7.5000])

    References:
        Han et al., 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
        Quantization and Huffman Coding", https://arxiv.org/abs/1510.00149 (section 3; linear initialisation)
    """
    check("kmeans", weight, bits)
    levels = 2**bits - 1
    found = [_one_group(run, levels, rounds) for run in group_rows(weight.detach().cpu(), groups)]
    width = max(1, *(len(table) for _, table in found))
    tables = np.stack([np.pad(table, (0, width - len(table))) for _, table in found])
    codes = torch.from_numpy(np.concatenate([codes for codes, _ in found])).view(weight.shape)
    learned = torch.from_numpy(tables).to(torch.float32 if weight.dtype != torch.float64 else torch.float64)
    return Shared("kmeans", bits, codes.to(weight.device), learned.to(weight.device), weight.dtype)


def check(rule: str, weight: Tensor, bits: int) -> None:
    """Refuse what cannot be shared."""
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"pack.{rule}: bits must be a whole number between 2 and 8; got {bits}")
    if weight.dtype not in FLOATS or weight.layout != torch.strided:
        raise ValueError(
            f"pack.{rule}: only dense floats can share values; got {weight.dtype}, {weight.layout}"
        )
    if weight.numel() and not bool(torch.stack(torch.aminmax(weight.detach())).isfinite().all()):
        raise ValueError(f"pack.{rule}: a weight with NaN or infinite elements cannot share values")


def _one_group(run: Tensor, levels: int, rounds: int) -> tuple[Codes, Floats]:
    """Return codes and centroids of a flat run of elements."""
    values = run.double().numpy() if run.dtype == torch.float64 else run.float().numpy()
    few = _few(values, levels)
    if few is not None:
        return np.where(values != 0, _nearest(values, few), 0).astype(np.uint8), few
    if len(values) <= SMALL:
        points, counts = np.unique(values[values != 0].astype(np.float64), return_counts=True)
        table = _rounded(_lloyd(points, counts, points * counts, levels, rounds))
        return np.where(values != 0, _nearest(values, table), 0).astype(np.uint8), table
    bins, counts, sums = _binned(values)
    there = counts > 0
    means = sums[there] / counts[there]
    table = _rounded(_lloyd(means, counts[there], sums[there], levels, rounds))
    codes = np.zeros(SMALL, np.uint8)
    codes[there] = _nearest(means, table)
    chosen = torch.index_select(torch.from_numpy(codes), 0, torch.from_numpy(bins.astype(np.int32)))
    return chosen.numpy() * (values != 0), table


def _few(values: Values, levels: int) -> Floats | None:
    """Return the values that occur beside zero, sorted, if there are not more than levels."""
    if len(np.unique(values[:PROBE])) > levels + 1:
        return None
    found = np.unique(values)
    found = found[found != 0].astype(np.float64)
    return found if len(found) <= levels else None


def _rounded(centroids: Floats) -> Floats:
    """Return the centroids as they are kept in a file."""
    rounded = to_half(torch.from_numpy(centroids).float()).double().numpy()
    return np.unique(rounded[rounded != 0])


def _binned(values: Values) -> tuple[NDArray[np.uint16], NDArray[np.int64], Floats]:
    """Return the bin of each element, and for each bin the count and sum of those that are not zero."""
    low, spread = values.min(), float(values.max()) - float(values.min())
    wide = values.dtype if TINY < spread < 1 / TINY else np.dtype(np.float64)
    scale = wide.type((SMALL - 1) / spread)
    bins, counts, sums = np.empty(len(values), np.uint16), np.zeros(SMALL, np.int64), np.zeros(SMALL)
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        found = ((chunk.astype(wide, copy=False) - low) * scale).astype(np.uint16)
        bins[start : start + CHUNK] = found
        kept = chunk != 0
        if not kept.all():
            found, chunk = found[kept], chunk[kept]
        counts += np.bincount(found, minlength=SMALL)
        sums += np.bincount(found, chunk, SMALL)
    return bins, counts, sums


def _lloyd(points: Floats, counts: NDArray[np.int64], sums: Floats, levels: int, rounds: int) -> Floats:
    """Return the centroids of sorted points; what no point is nearest to is left out."""
    before_counts = np.concatenate([[0], np.cumsum(counts)])
    before_sums = np.concatenate([[0.0], np.cumsum(sums)])
    centroids: Floats = np.linspace(points[0], points[-1], levels)
    for _ in range(rounds):
        edges = np.searchsorted(points, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(points)]])
        members = np.diff(before_counts[edges])
        means = np.diff(before_sums[edges])[members > 0] / members[members > 0]
        if len(means) == len(centroids) and np.array_equal(means, centroids):
            break
        centroids = means
    return centroids


def _nearest(values: Values, table: Floats) -> Codes:
    """Return 1 + the place of the nearest centroid for each element."""
    middles = ((table[1:] + table[:-1]) / 2).astype(values.dtype)
    return (np.searchsorted(middles, values) + 1).astype(np.uint8)
