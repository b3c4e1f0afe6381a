"""One layer pruned by the scores of an importance, as the solvers prune it."""

from functools import partial

import torch
from torch import Tensor

from tonsor.prune.by_weight import magnitude
from tonsor.prune.find import find_masks
from tonsor.prune.protocol import Importance, Scope
from tonsor.prune.scopes import per_output


@torch.no_grad()
def by_importance(
    weight: Tensor,
    gram: Tensor,
    sparsity: float,
    /,
    *,
    mean: Tensor | None = None,
    importance: Importance = magnitude,
    scope: Scope = per_output,
) -> tuple[Tensor, Tensor]:
    """Prune one weight by an importance, whose statistics are taken from the Gram matrix.

    Args:
        weight: Shape `(out, in/groups, ...)`.
        gram: Statistic `input_gram`.
        sparsity: Fraction removed, in [0, 1).
        mean: Statistic `input_mean`.
        importance: Scores the elements; may ask for `input_norm` (here: of each column, the kernel's places
            apart), `input_gram`, `input_mean` and the name, which is always "weight".
        scope: Says which weights of the layer compete.

    Returns:
        The weight with zeros where the mask is false, and the mask.

    Raises:
        ValueError: If the importance needs another statistic, or the sparsity is out of its range.

    Example:
        >>> by_importance(torch.tensor([[1.0, 2.0]]), torch.eye(2), 0.5)
        (tensor([[0., 2.]]), tensor([[False,  True]]))

    References:
        Sun et al., 2023, "A Simple and Effective Pruning Approach for Large Language Models",
        https://arxiv.org/abs/2306.11695
    """
    grams = gram if gram.ndim == 3 else gram.unsqueeze(0)
    norms = grams.diagonal(dim1=1, dim2=2).sqrt()
    norms = norms.repeat_interleave(len(weight) // len(norms), dim=0).view(weight.shape)
    stats = {"input_norm": norms, "input_gram": grams} | ({} if mean is None else {"input_mean": mean})
    find = partial(find_masks, {"weight": weight}, sparsity, stats={"weight": stats})
    mask = find(importance=importance, scope=scope)["weight"]
    return weight.detach().where(mask, 0), mask
