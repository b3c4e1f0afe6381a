"""Masks found in rounds: statistics are taken anew as the weights go."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tonsor.prune.protocol import Masks, Stats
from tonsor.prune.select import check_sparsity
from tonsor.tensors import apply_masks_


def find_in_rounds(
    weights: Mapping[str, Tensor],
    sparsity: float,
    /,
    *,
    find: Callable[..., Masks],
    collect: Callable[[], Stats],
    rounds: int = 100,
    regrow: bool = False,
    within: Mapping[str, Tensor] | None = None,
) -> Masks:
    r"""Find masks in rounds of rising sparsity, each by statistics of the model as the last round left it.

    After round k of n the sparsity is :math:`1 - (1 - s)^{k/n}`: each takes the same part of what is left.
    While `collect` runs, the weights are masked; in the end, or after an error, they are what they were, bit
    for bit. Synaptic flow needs it; SNIP and Taylor gain by it. One copy of the weights is held.

    Args:
        weights: The model's own parameters by name.
        sparsity: Fraction of the units removed in the end, in [0, 1).
        find: Called as `find(weights, sparsity, stats=..., within=...)` with the weights as they were:
            `find_masks` with its parts bound by `functools.partial`.
        collect: Gives the statistics of the masked model: `collect` bound to model and batches.
        rounds: How many, at least 1; more takes longer and follows the change more closely.
        regrow: Whether what a round removed may come back in the next, as in FORCE; its statistics must say
            something about weights that are zero, as gradients do.
        within: Masks of before; what they removed stays removed and counts.

    Returns:
        Boolean masks by name, true where the weight stays.

    Raises:
        ValueError: If the sparsity or the number of rounds is out of its range.

    Example:
        >>> from functools import partial
        >>> from tonsor.prune import find_masks
        >>> w = {"w": torch.tensor([1.0, 4.0, 2.0, 3.0])}
        >>> seen = []
        >>> def look():
        ...     seen.append(w["w"].tolist())
        ...     return {}
        >>> find_in_rounds(w, 0.75, find=find_masks, collect=look, rounds=2)
        {'w': tensor([False,  True, False, False])}
        >>> seen
        [[1.0, 4.0, 2.0, 3.0], [0.0, 4.0, 0.0, 3.0]]
        >>> w["w"]
        tensor([1., 4., 2., 3.])

    References:
        Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic
        flow", https://arxiv.org/abs/2006.05467
        de Jorge et al., 2021, "Progressive Skeletonization: Trimming more fat from a network at
        initialization", https://arxiv.org/abs/2006.09081
    """
    check_sparsity("find_in_rounds", sparsity)
    if rounds < 1:
        raise ValueError(f"prune.find_in_rounds: rounds must be at least 1; got {rounds}")
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    masks = within
    try:
        for number in range(1, rounds + 1):
            if masks:
                _write(weights, dense)
                apply_masks_(weights, masks)
            reached = sparsity if number == rounds else 1 - (1 - sparsity) ** (number / rounds)
            masks = find(dense, reached, stats=collect(), within=within if regrow else masks)
    finally:
        _write(weights, dense)
    return dict(masks or {})


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], content: Mapping[str, Tensor]) -> None:
    """Write what was kept into the weights."""
    for name, weight in weights.items():
        weight.copy_(content[name])
