"""Scopes: which units compete with which."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tonsor.prune.select import check_sparsity, keep_highest, keep_highest_of_rows


def local(units: Mapping[str, Tensor], sparsity: float, /) -> dict[str, Tensor]:
    """Let the units of each tensor compete among themselves: every tensor loses the same fraction.

    Args:
        units: Scores by name, of any shape.
        sparsity: Fraction removed of each tensor, in [0, 1); exactly round(sparsity * units) go.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1).

    Example:
        >>> local({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([8.0, 9.0])}, 0.5)
        {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    check_sparsity("local", sparsity)
    return {name: keep_highest([unit], sparsity)[0] for name, unit in units.items()}


def per_output(units: Mapping[str, Tensor], sparsity: float, /) -> dict[str, Tensor]:
    """Let the units of each output compete among themselves: every row loses the same fraction.

    Args:
        units: Scores by name, of shape `(out, ...)`; a tensor of fewer than two dimensions is one row.
        sparsity: Fraction removed of each row, in [0, 1); exactly round(sparsity * units) go.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1).

    Example:
        >>> per_output({"w": torch.tensor([[1.0, 2.0], [9.0, 8.0]])}, 0.5)
        {'w': tensor([[False,  True],
                [ True, False]])}

    References:
        Sun et al., 2023, "A Simple and Effective Pruning Approach for Large Language Models",
        https://arxiv.org/abs/2306.11695
    """
    check_sparsity("per_output", sparsity)
    return {name: _keep_of_outputs(unit, sparsity) for name, unit in units.items()}


def _keep_of_outputs(unit: Tensor, sparsity: float) -> Tensor:
    """Return which units stay when each output loses the same fraction."""
    rows = unit.flatten(1) if unit.ndim > 1 else unit.reshape(1, -1)
    return keep_highest_of_rows(rows, sparsity).view(unit.shape)


def across(units: Mapping[str, Tensor], sparsity: float, /) -> dict[str, Tensor]:
    """Let all units of all tensors compete (global pruning): the least important go, wherever they are.

    A tensor may lose more than another, and even everything. Tensors on several devices are compared on
    the first one's.

    Args:
        units: Scores by name, of any shape.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1).

    Example:
        >>> across({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([8.0, 9.0])}, 0.5)
        {'a': tensor([False, False]), 'b': tensor([True, True])}
    """
    check_sparsity("across", sparsity)
    return dict(zip(units, keep_highest(units.values(), sparsity), strict=True))


def n_of_m(units: Mapping[str, Tensor], sparsity: float, /, *, n: int = 2, m: int = 4) -> dict[str, Tensor]:
    r"""Let each run of m neighbours along the input compete: at most n of m stay in the end (N:M sparsity).

    Of each run :math:`m - \lfloor \text{sparsity} \cdot m \rfloor` stay, so that a schedule can lead from
    dense to n of m; the end is at sparsity 1 - n/m. A last run that is shorter than m counts as filled up
    with zeros, as the hardware fills it.

    Args:
        units: Scores by name. Runs go along dimension 1, the input, of `(out, in, ...)`, and along the only
            dimension of a vector.
        sparsity: Fraction removed of each run, in [0, 1 - n/m]; rounded down to whole units of the run.
        n: How many of a run stay at the end, 1 to m.
        m: Length of a run; 4 is what NVIDIA's sparse tensor cores run, with n = 2.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1 - n/m], or `n` outside 1 to `m`.

    Example:
        >>> n_of_m({"w": torch.tensor([[4.0, 1.0, 2.0, 3.0]])}, 0.5)
        {'w': tensor([[ True, False, False,  True]])}

    References:
        Zhou et al., 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
        https://arxiv.org/abs/2102.04010
    """
    check_sparsity("n_of_m", sparsity)
    if not 1 <= n <= m:
        raise ValueError(f"prune.n_of_m: n must lie in 1 to m; got n={n}, m={m}")
    gone = math.floor(sparsity * m + 1e-9)  # 1e-9: 0.7 * 10 is a little less than 7
    if sparsity > 1 - n / m + 1e-9:
        raise ValueError(
            f"prune.n_of_m: sparsity can be at most 1 - {n}/{m} = {1 - n / m:g}; got {sparsity};"
            " lower the sparsity or choose other n and m"
        )
    return {name: _keep_of_runs(unit, gone, m) for name, unit in units.items()}


def _keep_of_runs(unit: Tensor, gone: int, m: int) -> Tensor:
    """Return which units stay when each run of m along the input loses its `gone` lowest."""
    dim = min(1, unit.ndim - 1)
    rows = unit.movedim(dim, -1) if unit.ndim else unit.view(1)
    filled = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % m), value=-math.inf)
    keep = keep_highest_of_rows(filled.reshape(-1, m), gone / m).view(filled.shape)
    keep = keep.narrow(-1, 0, rows.shape[-1])
    return keep.movedim(-1, dim).contiguous() if unit.ndim else keep.view(())
