"""Candidates of a search: channels cut, zeros found, and what was lost made up for without labels."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.prune import find_masks, heal, prune_layerwise, recalibrate_
from tonsor.recipe.fitting_how import How
from tonsor.shrink import ChannelGroups, channel_groups, shrink_, shrink_to

BASES = 3  # models of different widths that are held at a time


@dataclass(frozen=True, order=True)
class Point:
    """Say how far a candidate goes.

    Args:
        share: Of the dense model's multiplications that cutting channels leaves, in (0, 1]; 1 cuts none.
        sparsity: Of the weights that are left, in [0, 1).

    Example:
        >>> Point(0.5, 0.9).name
        'cut-0.5-zeros-0.9000'
    """

    share: float
    sparsity: float

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"cut-{self.share:.3g}-zeros-{self.sparsity:.4f}"


@dataclass(frozen=True)
class Base:
    """Hold a model whose channels are cut, healed, before any zeros; without a plan it is as wide as ever."""

    model: nn.Module
    plan: dict[str, Any] | None


class Maker:
    """Make candidates of one dense model.

    Args:
        model: The dense model, which is left as it is.
        example: The arguments of one call.
        calibration: Pairs of inputs and anything, on the model's device.
        how: How.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> maker = Maker(model, torch.ones(1, 4), [(torch.randn(32, 4), None)], How())
        >>> small = maker.pruned(Point(0.5, 0.5))
        >>> small[0].out_features, int(small[0].weight.count_nonzero() + small[2].weight.count_nonzero())
        (4, 12)
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor | tuple[Any, ...],
        calibration: Sequence[tuple[Any, Any]],
        how: How,
    ) -> None:
        self._model, self._example, self._batches, self._how = model, example, calibration, how
        self._bases: dict[float, Base | None] = {}

    def base(self, share: float) -> Base | None:
        """Return the model cut to a share of its multiplications; nothing where that cannot be done."""
        if share not in self._bases:
            while len(self._bases) >= BASES:
                del self._bases[next(iter(self._bases))]
            self._bases[share] = self._cut(share)
        return self._bases[share]

    def pruned(self, point: Point) -> nn.Module:
        """Return a copy with its channels cut and its zeros set, refitted; values are not shared yet."""
        base = self.base(point.share)
        assert base is not None, "points are only made where the cut can be"
        model = copy.deepcopy(base.model)
        if point.sparsity > 0:
            self._prune(model, point.sparsity)
            recalibrate_(model, self._batches)
        return model

    def weights(self, share: float) -> dict[str, Tensor]:
        """Return the weights of the cut model that may be zero."""
        base = self.base(share)
        return _weights(base.model) if base else {}

    def _cut(self, share: float) -> Base | None:
        """Cut channels of a copy, after what stays has been refitted to the dense outputs."""
        model = copy.deepcopy(self._model)
        if share >= 1:
            return Base(model, None)
        try:
            masks = self._channels(share)
        except ValueError as error:  # no graph, no groups, or the limits forbid it
            self._how.tell(
                {"event": "note", "text": f"{share:.0%} of the multiplications: cannot cut: {error}"}
            )
            return None
        heal(model, masks, self._batches)
        shrunk = shrink_(model, self._groups, masks)
        recalibrate_(model, self._batches)
        return Base(model, shrunk.plan)

    def _channels(self, share: float) -> dict[str, Tensor]:
        """Return the masks of the channels that stay."""
        trial = copy.deepcopy(self._model)
        groups = self._groups
        scored = groups.scored(normalise="none")
        reached = shrink_to(trial, self._example, scores=self._how.scores, groups=scored, macs=share)
        keep = {name: torch.ones(group.units, dtype=torch.bool) for name, group in groups.groups.items()}
        for name, gone in reached.shrunk.removed.items():
            keep[name][list(gone)] = False
        return groups.expand(keep, dict(self._model.named_parameters(remove_duplicate=False)))

    def _prune(self, model: nn.Module, sparsity: float) -> None:
        """Set zeros layer by layer, as many in each as magnitude over all weights would; refit what stays."""
        weights = _weights(model)
        masks = magnitudes(weights, sparsity)
        shares = {name: _share(mask) for name, mask in masks.items() if not mask.all()}
        solved = {name: share for name, share in shares.items() if name in self._able}
        rest = {name: masks[name] for name in shares if name not in solved}
        if not rest:
            prune_layerwise(model, solved, self._batches, rule=self._how.rule)
            return
        found: dict[str, Tensor] = {}
        if solved:
            trial = copy.deepcopy(model)
            found, _ = prune_layerwise(trial, solved, self._batches, rule=self._how.rule, repair=None)
        heal(model, {**rest, **found}, self._batches)

    @cached_property
    def _groups(self) -> ChannelGroups:
        """The groups of channels of the dense model."""
        return channel_groups(self._model, self._example)

    @cached_property
    def _able(self) -> set[str]:
        """The weights that a layer's inputs tell how to refit, found on a copy."""
        model = copy.deepcopy(self._model)
        whole = {name: torch.ones_like(w, dtype=torch.bool) for name, w in _weights(model).items()}
        records = heal(model, whole, self._batches[:1])
        return {record.name for record in records if not record.note}


def magnitudes(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the masks by magnitude over all weights; that one is emptied is told by what is measured.

    Example:
        >>> magnitudes({"w": torch.tensor([[1.0, 2.0]])}, 0.5)
        {'w': tensor([[False,  True]])}
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return find_masks(weights, sparsity)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of two dimensions or more."""
    return {name: p for name, p in model.named_parameters() if p.ndim > 1 and p.numel()}


def _share(mask: Tensor) -> float:
    """Return the fraction that goes, at least one element staying."""
    return 1 - max(1, int(mask.sum())) / mask.numel()
