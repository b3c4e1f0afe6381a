"""Penalties before the cut: what shall go is made small while the model still trains."""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from tonsor.shrink.collect import Group
from tonsor.shrink.groups import ChannelGroups


def group_lasso(model: nn.Module, groups: ChannelGroups, /) -> Tensor:
    r"""Return a penalty that drives whole units to zero: :math:`\sum_g \sqrt{n_g} \sum_{u \in g} \|w_u\|_2`.

    A unit's weights are those of all its slices, on both sides, so that what goes is what `shrink_` can
    remove; n is how many weights a unit of the group has. Add it to the loss, times a factor such as 1e-4.

    Args:
        model: The model the groups were found in.
        groups: Its groups; those that limits left out are not penalised.

    Returns:
        A number that can be differentiated; at a unit of zeros its gradient is zero.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[3.0], [0.0]])
        >>> model[1].weight.data = torch.tensor([[4.0, 0.0]])
        >>> group_lasso(model, channel_groups(model, torch.ones(1, 1)))   # root of 2, times 5 + 0
        tensor(7.0711, grad_fn=<AddBackward0>)

    References:
        Wen et al., 2016, "Learning Structured Sparsity in Deep Neural Networks",
        https://arxiv.org/abs/1608.03665
        Fang et al., 2023, "DepGraph: Towards Any Structural Pruning", https://arxiv.org/abs/2301.12900
    """
    parameters = dict(model.named_parameters())
    total = torch.zeros((), device=next(iter(parameters.values())).device)
    for group in groups.groups.values():
        squares = _squares(group, parameters)
        if squares is not None:
            alive = squares > 0
            norms = squares.where(alive, 1).sqrt() * alive  # the root has no slope at 0
            total = total + sqrt(max(1, group.cost)) * norms.sum().to(total.device)
    return total


def growing_l2(model: nn.Module, masks: Mapping[str, Tensor], /) -> Tensor:
    r"""Return half the sum of squares of the weights that masks will remove: :math:`\frac{1}{2} \sum w^2`.

    Added to the loss with a factor that grows, as `tonsor.schedule.linear` gives it, it takes from the
    weights that are to go what they do, bit by bit, and the others learn to do without. When the factor is
    large, apply the masks and shrink.

    Args:
        model: The model.
        masks: Masks by parameter name, true where the weight stays.

    Returns:
        A number that can be differentiated.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model.weight.data = torch.tensor([[2.0, 5.0]])
        >>> growing_l2(model, {"weight": torch.tensor([[False, True]])})
        tensor(2., grad_fn=<AddBackward0>)

    References:
        Wang et al., 2021, "Neural Pruning via Growing Regularization", https://arxiv.org/abs/2012.09243
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    total = torch.zeros((), device=next(iter(parameters.values())).device)
    for name, mask in masks.items():
        weight = parameters[name]
        total = total + weight.square().masked_fill(mask.to(weight.device), 0).sum().to(total.device) / 2
    return total


def _squares(group: Group, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """Return the sum of squares of each unit over all its slices."""
    totals: list[Tensor] = []
    for part in group.slices:
        if part.parameter in parameters:
            weight = parameters[part.parameter]
            rest = [dim for dim in range(weight.ndim) if dim != part.dim]
            line = weight.square().sum(rest) if rest else weight.square()
            totals.append(
                line[part.index.to(line.device)].sum(1).to(totals[0].device if totals else line.device)
            )
    return torch.stack(totals).sum(0) if totals else None
