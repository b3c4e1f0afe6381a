"""Masks that a training carries with it: where they start, and whether they fit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tonsor.prune.protocol import Masks


def start(owner: str, weights: Mapping[str, Tensor], within: Mapping[str, Tensor] | None, /) -> Masks:
    """Return the masks to begin with: copies of those of before, all true for the other weights.

    Args:
        owner: Who asks, for the mistakes.
        weights: Weights by name.
        within: Masks of before; those of other weights are left out.

    Raises:
        ValueError: If a mask does not fit its weight.

    Example:
        >>> start("Pruner", {"w": torch.zeros(2)}, None)
        {'w': tensor([True, True])}
    """
    everything = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    return fitting(owner, weights, {**everything, **(within or {})})


def carried(owner: str, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], /) -> Masks:
    """Return copies of the masks of a saved state, which must be those of the same weights.

    Args:
        owner: Who asks, for the mistakes.
        weights: Weights by name.
        masks: Masks by name.

    Raises:
        ValueError: If the names differ, or a mask does not fit its weight.

    Example:
        >>> carried("Pruner", {"w": torch.zeros(2)}, {"v": torch.zeros(2) > 0})
        Traceback (most recent call last):
        ValueError: prune.Pruner: state and weights must bear the same names; only one side has v, w; ...
    """
    odd = masks.keys() ^ weights.keys()
    if odd:
        raise ValueError(
            f"prune.{owner}: state and weights must bear the same names; only one side has"
            f" {', '.join(sorted(odd))}; load the state of the same model"
        )
    return fitting(owner, weights, masks)


def fitting(owner: str, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], /) -> Masks:
    """Return copies of the masks beside their weights, or say which does not fit.

    Example:
        >>> fitting("Pruner", {"w": torch.zeros(2)}, {"w": torch.ones(1) > 0})
        Traceback (most recent call last):
        ValueError: prune.Pruner: the mask of 'w' must be boolean of shape (2,); got torch.bool of shape (1,)
    """
    for name, weight in weights.items():
        if masks[name].dtype != torch.bool or masks[name].shape != weight.shape:
            raise ValueError(
                f"prune.{owner}: the mask of '{name}' must be boolean of shape {tuple(weight.shape)};"
                f" got {masks[name].dtype} of shape {tuple(masks[name].shape)}"
            )
    return {name: masks[name].to(weight.device, copy=True) for name, weight in weights.items()}


def fraction_gone(masks: Mapping[str, Tensor], /) -> float:
    """Return the fraction of all elements that the masks remove; the device is waited for.

    Example:
        >>> fraction_gone({"w": torch.tensor([True, False, False, False])})
        0.75
    """
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / total if total else 0.0
