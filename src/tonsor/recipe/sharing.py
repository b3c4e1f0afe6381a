"""Weights that share values, layer by layer: each is chosen on what the layers shared before it give."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tonsor import pack as room
from tonsor.modes import call, evaluating
from tonsor.prune import Layer, LayerRule, layer_of, prune_layerwise


def share_layerwise_(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    /,
    *,
    bits: room.Bits = 4,
    sharing: room.Sharing = room.kmeans,
    damping: float = 0.01,
) -> dict[str, room.Shared]:
    """Let the weights of a model share values, codes chosen by GPTQ layer by layer, without labels.

    Linear layers, convolutions and attention projections are chosen on calibration batches, as they come
    through the layers that share values already; what else shares values takes the nearest: embeddings,
    layers that the batches never call, transposed ones (Hugging Face's `Conv1D`) with more than one table.
    Zeros stay zero.

    Args:
        model: Changed in place: its weights are the shared values afterwards.
        batches: Pairs of inputs and targets; targets are not looked at. More inputs than a layer has
            features are better.
        bits: As `tonsor.pack.share` takes them.
        sharing: A rule of `tonsor.pack.SHARINGS`, with its other settings bound.
        damping: As `tonsor.pack.gptq` takes it.

    Returns:
        The shared weights by name, ready for `tonsor.pack.finetune_` and `tonsor.pack.pack`.

    Raises:
        ValueError: If a pattern of names fits none, a weight cannot be shared, or there is no batch.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 8)
        >>> shared = share_layerwise_(model, [(x, None)], bits=2)
        >>> list(shared), len(model[0].weight.unique()) <= 4
        (['0.weight', '2.weight'], True)

    References:
        Frantar et al., 2023, "GPTQ", https://arxiv.org/abs/2210.17323
    """
    given = list(batches)
    if not given:
        raise ValueError("share_layerwise_: there was no batch; give at least one (an iterator runs once)")
    shared = room.share(model, bits=bits, sharing=sharing)
    layers = _called(model, given, [name for name in shared if name in dict(model.named_parameters())])
    rules: dict[str, LayerRule] = {}
    for name, nearest in shared.items():
        layer = layers.get(name)
        if layer is not None and (nearest.groups == 1 or layer.upright(nearest.codes) is nearest.codes):
            rules[name] = _Rule(layer, shared, damping)
        else:
            with torch.no_grad():
                model.state_dict()[name].copy_(nearest.values())
    prune_layerwise(model, 0.0, given, rule=rules, repair=None, target="current")
    return shared


def _called(model: nn.Module, batches: Sequence[tuple[Any, Any]], names: Iterable[str]) -> dict[str, Layer]:
    """Return the layers among the weights that the batches call."""
    layers = {name: layer for name in names if (layer := layer_of(model, name)) is not None}
    seen: dict[str, list[Any]] = {name: [] for name in layers}
    handles = [layer.watch(seen[name].append) for name, layer in layers.items()]
    try:
        with evaluating(model), torch.no_grad():
            for inputs, _ in batches[:1]:
                call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: layer for name, layer in layers.items() if seen[name]}


@dataclass(frozen=True)
class _Rule:
    """Choose the codes of one layer, and keep them."""

    layer: Layer
    shared: dict[str, room.Shared]
    damping: float

    def __call__(
        self, weight: Tensor, gram: Tensor, sparsity: float, /, *, mean: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the shared values, and where they are not zero."""
        name = self.layer.name
        nearest = self.shared[name]  # its table is that of this very weight
        chosen = room.gptq(weight, gram, sharing=lambda _, bits: nearest, damping=self.damping)
        codes = self.layer.upright(chosen.codes).contiguous()
        self.shared[name] = replace(chosen, codes=codes)
        return chosen.values(), chosen.codes != 0
