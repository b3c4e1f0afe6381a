"""Scopes that share the sparsity out over the tensors before the units of each compete."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from tonsor.prune.allocate import keep_allocated
from tonsor.prune.select import check_sparsity
from tonsor.spelling import unknown


def erk(units: Mapping[str, Tensor], sparsity: float, /) -> dict[str, Tensor]:
    r"""Keep more of small tensors (Erdős-Rényi-Kernel): :math:`d = \min(1, \epsilon \sum n_i / \prod n_i)`.

    The density d of a tensor of dimensions :math:`n_i` falls with its size; a tensor whose density would
    exceed 1 stays whole and the others make up for it. :math:`\epsilon` is what the sparsity asks for.

    Args:
        units: Scores by name, of any shape; shapes of single weights give the paper's densities.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1).

    Example:
        >>> import torch
        >>> units = {"thin": torch.arange(4.0).view(4, 1), "thick": torch.arange(16.0).view(4, 4)}
        >>> {name: int(keep.sum()) for name, keep in erk(units, 0.5).items()}   # densities 1 and 3/8
        {'thin': 4, 'thick': 6}

    References:
        Evci et al., 2020, "Rigging the Lottery", https://arxiv.org/abs/1911.11134
        Mocanu et al., 2018, "Scalable Training of Artificial Neural Networks with Adaptive Sparse
        Connectivity", https://arxiv.org/abs/1707.04780
    """
    check_sparsity("erk", sparsity)
    shapes = [tuple(unit.shape) or (1,) for unit in units.values()]
    shares = [sum(shape) / math.prod(shape) if all(shape) else 1.0 for shape in shapes]
    least = min(shares, default=1.0)

    def path(gone: float) -> list[float]:
        epsilon = (1 - gone) / least
        return [
            math.prod(shape) * (1 - min(1.0, epsilon * share))
            for shape, share in zip(shapes, shares, strict=True)
        ]

    return keep_allocated(units, path, sparsity)


def uniform_plus(units: Mapping[str, Tensor], sparsity: float, /, *, last: float = 0.8) -> dict[str, Tensor]:
    """Keep the first tensor whole and much of the last, and take the same fraction of all others.

    Args:
        units: Scores by name, of any shape, in the order of the layers.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go.
        last: Most that the last tensor may lose, in [0, 1]; below it loses the same as the others.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1), or is more than the tensors that may lose can give.

    Example:
        >>> import torch
        >>> units = {name: torch.arange(10.0) for name in ("first", "second", "third", "last")}
        >>> {name: int((~keep).sum()) for name, keep in uniform_plus(units, 0.65).items()}
        {'first': 0, 'second': 9, 'third': 9, 'last': 8}

    References:
        Gale et al., 2019, "The State of Sparsity in Deep Neural Networks", https://arxiv.org/abs/1902.09574
    """
    check_sparsity("uniform_plus", sparsity)
    if not 0 <= last <= 1:
        raise ValueError(f"prune.uniform_plus: last must lie in [0, 1]; got {last}")
    sizes = [unit.numel() for unit in units.values()]
    most = [0.0, *[1.0] * (len(sizes) - 2), last][: len(sizes)]
    _check_reach("uniform_plus", sizes, most, sparsity)

    def path(gone: float) -> list[float]:
        return [size * min(gone, share) for size, share in zip(sizes, most, strict=True)]

    return keep_allocated(units, path, sparsity)


def by_table(
    units: Mapping[str, Tensor], sparsity: float, /, *, table: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    r"""Take from each tensor what a table says: at the table's own mean exactly that, to a rounded unit.

    Below the mean m every entry is scaled by sparsity / m, so that a schedule can lead there; above it the
    densities 1 - entry are scaled alike. A tensor of entry 0 stays whole at any sparsity.

    Args:
        units: Scores by name, of any shape.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go.
        table: Sparsity in [0, 1) by name, with `*` and `?`; the first that fits counts, and a tensor that
            none fits stays whole: end with `"*"` to say what the others lose. Without a table all lose alike.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` or an entry lies outside [0, 1), a name fits nothing, or the tensors with an
            entry above 0 have not so many units.

    Example:
        >>> import torch
        >>> units = {"a": torch.arange(10.0), "b": torch.arange(10.0)}
        >>> for sparsity in (0.25, 0.5, 0.75):
        ...     keep = by_table(units, sparsity, table={"a": 0.2, "*": 0.8})
        ...     {name: int((~k).sum()) for name, k in keep.items()}
        {'a': 1, 'b': 4}
        {'a': 2, 'b': 8}
        {'a': 6, 'b': 9}
    """
    check_sparsity("by_table", sparsity)
    entries = _entries(list(units), {"*": 0.5} if table is None else table)
    sizes = [unit.numel() for unit in units.values()]
    _check_reach("by_table", sizes, [float(entry > 0) for entry in entries], sparsity)

    def path(gone: float) -> list[float]:
        if gone <= 0.5:
            return [size * entry * 2 * gone for size, entry in zip(sizes, entries, strict=True)]
        kept = 2 - 2 * gone
        return [size * (1 - (1 - e) * kept) if e else 0.0 for size, e in zip(sizes, entries, strict=True)]

    return keep_allocated(units, path, sparsity)


def _entries(names: Sequence[str], table: Mapping[str, float]) -> list[float]:
    """Return each tensor's entry, or say what is wrong with the table."""
    for pattern, entry in table.items():
        if not 0 <= entry < 1:
            raise ValueError(
                f"prune.by_table: '{pattern}' must be the fraction removed, in [0, 1); got {entry}"
            )
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"prune.by_table: {unknown('tensor', pattern, names)}")
    fitting = [[entry for pattern, entry in table.items() if fnmatchcase(name, pattern)] for name in names]
    return [float(found[0]) if found else 0.0 for found in fitting]


def _check_reach(scope: str, sizes: Sequence[int], most: Sequence[float], sparsity: float) -> None:
    """Refuse more than the tensors that may lose can give."""
    total = sum(sizes)
    reach = sum(int(size * share + 0.5) for size, share in zip(sizes, most, strict=True))
    if round(sparsity * total) > reach:
        raise ValueError(
            f"prune.{scope}: of {total} units {reach} may go, so sparsity can be at most {reach / total:g};"
            f" got {sparsity}; lower it or let other tensors lose more"
        )
