"""Weights that share values found by k-means."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tonsor.pack.shared import Shared, group_rows, to_half

SMALL = 1 << 16  # elements up to which each is a point of its own; more are counted in so many bins
CHUNK = 1 << 20  # elements that are looked at at once: they stay in the cache
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Floats = NDArray[np.float64]
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
        groups: Runs of output channels with a table each; more are nearer to the weight, and longer.
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
    if not bool(weight.isfinite().all()):
        raise ValueError(f"pack.{rule}: a weight with NaN or infinite elements cannot share values")


def _one_group(run: Tensor, levels: int, rounds: int) -> tuple[Codes, Floats]:
    """Return codes and centroids of a flat run of elements."""
    values = run.double().numpy() if run.dtype == torch.float64 else run.float().numpy()
    kept = values[values != 0]
    if len(kept) == 0:
        return np.zeros(len(values), np.uint8), np.zeros(0)
    if len(kept) <= SMALL:
        points, counts = np.unique(kept, return_counts=True)
        if len(points) <= levels:
            return _nearest(values, points.astype(np.float64)), points.astype(np.float64)
        centroids = _lloyd(
            points.astype(np.float64), counts, points * counts.astype(np.float64), levels, rounds
        )
    else:
        centroids = _lloyd(*_binned(kept), levels, rounds)
    rounded = to_half(torch.from_numpy(centroids).float()).double().numpy()
    table = np.unique(rounded[rounded != 0])
    return _nearest(values, table), table


def _binned(kept: NDArray[np.float32]) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Return the centres of even bins that are not empty, with the count and sum of their elements."""
    low, high = kept.min(), kept.max()
    scale = (SMALL - 1) / max(float(high) - float(low), 1e-300)
    counts, sums = np.zeros(SMALL, np.int64), np.zeros(SMALL)
    for start in range(0, len(kept), CHUNK):
        chunk = kept[start : start + CHUNK]
        bins = ((chunk - low) * chunk.dtype.type(scale)).astype(np.uint16)
        counts += np.bincount(bins, minlength=SMALL)
        sums += np.bincount(bins, chunk, SMALL)
    there = counts > 0
    return sums[there] / counts[there], counts[there], sums[there]


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


def _nearest(values: NDArray[np.float32], table: Floats) -> Codes:
    """Return 1 + the place of the nearest centroid for each element, and 0 for a zero."""
    middles = torch.from_numpy((table[1:] + table[:-1]) / 2).to(torch.from_numpy(values).dtype)
    codes = np.empty(len(values), np.uint8)
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        places = torch.bucketize(torch.from_numpy(chunk), middles, out_int32=True).numpy()
        codes[start : start + CHUNK] = np.where(chunk != 0, places + 1, 0)
    return codes
