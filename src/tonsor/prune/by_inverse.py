"""Optimal Brain Surgeon: score by the inverse of the curvature, and make up for what is removed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tonsor.prune.protocol import Stats
from tonsor.spelling import unknown

STATISTIC = "inverse_fisher"
ENTRIES = 1 << 24  # of the matrices worked on at a time


def obs(weight: Tensor, inverse_fisher: Tensor, /) -> Tensor:
    r"""Score a weight by the loss its removal adds while others make up: :math:`s = w^2 / (2 [F^{-1}]_{jj})`.

    Optimal Brain Surgeon with a block-wise inverse Fisher. After the masks are found, `obs_update_` moves the
    weights that stay by what the scores have assumed.

    Args:
        weight: Shape `(out, in, ...)`.
        inverse_fisher: Inverse of the Fisher in blocks of the flattened weight, `(blocks, block, block)`.

    Returns:
        The scores, an estimate of the change in loss, in float32 at least, shaped like the weight.

    Example:
        >>> obs(torch.tensor([3.0, -4.0]), torch.tensor([[[0.5, 0.0], [0.0, 2.0]]]))
        tensor([9., 4.])

    References:
        Hassibi and Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon",
        https://papers.nips.cc/paper/647-second-order-derivatives-for-network-pruning-optimal-brain-surgeon
        Singh and Alistarh, 2020, "WoodFisher", https://arxiv.org/abs/2004.14340
    """
    diagonal = inverse_fisher.diagonal(dim1=-2, dim2=-1).reshape(-1)[: weight.numel()].view_as(weight)
    return weight.detach().to(diagonal.dtype).square() / diagonal / 2


@torch.no_grad()
def obs_update_(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], stats: Stats, /) -> None:
    r"""Set the masked weights to zero and move those that stay so that the loss rises least, block by block.

    Of the removed set :math:`Q` of a block, :math:`\delta = -F^{-1}_{:Q} ([F^{-1}]_{QQ})^{-1} w_Q`; for one
    removed weight that is :math:`-w_j F^{-1} e_j / [F^{-1}]_{jj}`. Call it once for masks that were found on
    these weights; a weight that is zero already and stays removed is held there, and takes part.

    Args:
        weights: Weights by name, changed in place; those without a mask stay as they are.
        masks: Boolean masks by name, true where the weight stays.
        stats: Holds `inverse_fisher` of every masked weight, as `collect` gives it.

    Raises:
        ValueError: If a mask has no weight, or its weight no `inverse_fisher`; nothing is changed then.

    Example:
        >>> w = {"w": torch.tensor([1.0, 1.0])}
        >>> inverse = torch.tensor([[[2.0, -1.0], [-1.0, 2.0]]])
        >>> obs_update_(w, {"w": torch.tensor([False, True])}, {"w": {"inverse_fisher": inverse}})
        >>> w["w"]                          # the loss lets the second take over half of the first
        tensor([0.0000, 1.5000])

    References:
        Singh and Alistarh, 2020, "WoodFisher", https://arxiv.org/abs/2004.14340
        Kurtic et al., 2022, "The Optimal BERT Surgeon", https://arxiv.org/abs/2203.07259 (for sets)
    """
    _check(weights, masks, stats)
    for name, mask in masks.items():
        inverse = stats[name][STATISTIC]
        blocks, block = inverse.shape[:2]
        padding = (0, blocks * block - mask.numel())
        flat = torch.nn.functional.pad(weights[name].reshape(-1).to(inverse), padding).view(blocks, block)
        gone = torch.nn.functional.pad(~mask.reshape(-1).to(inverse.device), padding).view(blocks, block)
        step = max(1, ENTRIES // (block * block))
        parts = [torch.split(tensor, step) for tensor in (flat, gone, inverse)]
        moved = torch.cat([_moved(*part) for part in zip(*parts, strict=True)]).reshape(-1)[: mask.numel()]
        weights[name].copy_(moved.view(mask.shape).where(mask.to(moved.device), 0))


def _check(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], stats: Stats) -> None:
    """Refuse masks without a weight and weights without the statistic."""
    for name in masks:
        if name not in weights:
            raise ValueError(f"prune.obs_update_: in masks: {unknown('weight', name, weights)}")
        if STATISTIC not in stats.get(name, {}):
            raise ValueError(
                f"prune.obs_update_: weight '{name}' needs '{STATISTIC}';"
                f" give stats=collect(model, batches, names=['{STATISTIC}'], ...)"
            )


def _moved(flat: Tensor, gone: Tensor, inverse: Tensor) -> Tensor:
    """Return blocks of weights after their removed sets were made up for, in float64."""
    inverse = inverse.double()
    both = gone.unsqueeze(-1) & gone.unsqueeze(-2)
    # Beside the removed set stands the identity, so that blocks with sets of all sizes are solved at once.
    within = inverse.where(both, torch.eye(gone.shape[-1], dtype=inverse.dtype, device=inverse.device))
    force: Tensor = torch.linalg.solve(within, (flat.double() * gone).unsqueeze(-1))
    return flat.double() - (inverse @ (force * gone.unsqueeze(-1))).squeeze(-1)
