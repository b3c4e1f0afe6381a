"""Elimination: input features are removed one by one, each time the one whose loss costs least."""

import torch
from torch import Tensor

from tonsor.prune.rows import damped, factor, rows_of


@torch.no_grad()
def eliminate(
    weight: Tensor,
    gram: Tensor,
    /,
    *,
    mean: Tensor | None = None,
    damping: float = 0.1,
) -> Tensor:
    r"""Return when each input feature of a layer goes, if the least costly one goes first.

    The others take over what a feature did, by least squares, before the next is chosen. With
    :math:`P = H^{-1}` the columns S of a feature cost :math:`\operatorname{tr}(W_S P_{SS}^{-1} W_S^\top)`;
    then :math:`W \leftarrow W - W_S P_{SS}^{-1} P_{S:}`, and P loses S. This is the greedy optimal brain
    surgeon for whole neurons or channels: what reads them tells which of them are needed.

    Args:
        weight: Weight of the layer that reads the features, `(out, in, ...)`; of several that read the
            same, their weights joined along the outputs.
        gram: Statistic `input_gram` of that layer, of one group.
        mean: Statistic `input_mean`; given where a bias makes up for the mean.
        damping: Added to H's diagonal, over its mean; more trusts the sizes of the weights more.

    Returns:
        Shape `(in,)`: 0 for the feature that goes first, in - 1 for the last. Those of the highest values
        stay; `result >= count` is what is left after `count` have gone.

    Raises:
        ValueError: If the layer has several groups, or a shape does not fit.

    Example:
        >>> w = torch.tensor([[1.0, 1.1, 3.0]])
        >>> gram = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.1]])
        >>> eliminate(w, gram, damping=0.0)    # of the first two each can stand in for the other
        tensor([0, 2, 1])

    References:
        Hassibi and Stork, 1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon",
        https://proceedings.neurips.cc/paper/1992/hash/303ed4c69846ab36c2904d3ba8573050-Abstract.html
        Kurtic et al., 2023, "ZipLM", https://arxiv.org/abs/2302.04089
    """
    rows, grams = rows_of("eliminate", weight, gram, mean)
    if len(grams) != 1:
        raise ValueError(
            f"prune.eliminate: a feature must be read by the whole layer; got {len(grams)} groups; choose"
            " channels of a grouped convolution by another importance"
        )
    units = weight.shape[1]
    size = rows.shape[-1] // units  # columns of a feature: the places of a convolution's kernel
    left = torch.cholesky_inverse(factor("eliminate", damped(grams, damping)[0]))
    kept = rows[0].clone()
    alive = torch.ones(units, dtype=torch.bool, device=kept.device)
    turn = torch.zeros(units, dtype=torch.int64, device=kept.device)
    for count in range(units):
        unit = _costs(kept, left, units).where(alive, torch.inf).argmin()
        turn[unit] = count
        alive[unit] = False
        _remove_(kept, left, unit * size + torch.arange(size, device=kept.device))
    return turn


def _costs(rows: Tensor, left: Tensor, units: int) -> Tensor:
    """Return what each feature's removal adds to the squared error of the outputs."""
    size = rows.shape[-1] // units
    if size == 1:
        return rows.square().sum(0) / left.diagonal()
    columns = torch.arange(rows.shape[-1], device=rows.device).view(units, size)
    corners = left[columns[:, :, None], columns[:, None, :]]
    parts = rows.view(-1, units, size).transpose(0, 1)
    solved: Tensor = torch.linalg.solve(corners, parts.mT)
    return (solved * parts.mT).sum((1, 2))


def _remove_(rows: Tensor, left: Tensor, columns: Tensor) -> None:
    """Take columns out of the inverse, and let the others take over; theirs are left as an identity."""
    across = left[columns]
    share = torch.linalg.solve(across[:, columns], across)
    rows -= rows[:, columns] @ share
    left -= across.mT @ share
    rows[:, columns] = 0
    left[columns] = 0
    left[:, columns] = 0
    left[columns, columns] = 1
