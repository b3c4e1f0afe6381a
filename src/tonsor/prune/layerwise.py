"""Prune layer by layer: each on what the layers pruned before it feed it."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.prune.layers import Layer, layer_of
from tonsor.prune.moments import Moments
from tonsor.prune.protocol import Masks
from tonsor.prune.refit import refit, retarget
from tonsor.prune.repaired import Repaired, calibration, centred, record, write_
from tonsor.prune.select import check_sparsity
from tonsor.prune.solvers import LayerRule, Repair
from tonsor.prune.sparsegpt import sparsegpt
from tonsor.prune.walk import Dense, walk
from tonsor.spelling import unknown


@torch.no_grad()
def prune_layerwise(
    model: nn.Module,
    sparsity: float | Mapping[str, float],
    batches: Iterable[tuple[Any, Any]],
    /,
    *,
    rule: LayerRule | Mapping[str, LayerRule] = sparsegpt,
    weights: Iterable[str] | None = None,
    repair: Repair | None = refit,
    target: str = "dense",
) -> tuple[Masks, list[Repaired]]:
    """Find masks and repair weights layer by layer, each on what the layers pruned before it feed it.

    Walks the model as `heal` does. SparseGPT as it was published is `repair=None, target="current"`;
    magnitude or Wanda with a refit is `rule=partial(by_importance, importance=wanda)`.

    Args:
        model: The dense model, changed in place.
        sparsity: Fraction removed of each weight, in [0, 1); or one for each weight by name.
        batches: Pairs of inputs and targets, as for `collect`; targets are not looked at.
        rule: Finds mask and weights of one layer; or one rule for each weight by name.
        weights: Names of the weights; without it those that `sparsity` or `rule` names, or else every weight
            that is a layer.
        repair: Refits each weight on its mask, and the bias with it; None leaves what the rule gave, and
            biases alone.
        target: As for `heal`.

    Returns:
        The masks by name, and a record for each weight.

    Raises:
        ValueError: If a name is no layer's or not called by the batches, the target is not known, or there
            is no batch.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 8)
        >>> masks, records = prune_layerwise(model, {"0.weight": 0.75}, [(x, None)])
        >>> int((model[0].weight != 0).sum()), masks["0.weight"].sum().item()
        (16, 16)

    References:
        Frantar and Alistarh, 2023, "SparseGPT", https://arxiv.org/abs/2301.00774
    """
    wanted = _wanted(model, sparsity, rule, weights)
    calls = calibration("prune_layerwise", batches, target)
    masks: Masks = {}
    records: list[Repaired] = []
    share = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(wanted, sparsity)
    rules = rule if isinstance(rule, Mapping) else dict.fromkeys(wanted, rule)

    def solve(layer: Layer, moments: Moments) -> None:
        """Prune one layer and note what came of it."""
        started = time.perf_counter()
        weight = layer.upright(layer.weight.detach().clone())
        new, mask, shift = _solved(layer, moments, (weight, share[layer.name]), rules[layer.name], repair)
        masks[layer.name] = layer.upright(mask).contiguous()
        records.append(record(layer, (weight, mask, new), shift, moments, started))

    dense = Dense() if target == "dense" else None
    walk(model, list(wanted.values()), calls, solve, dense, all_for="prune_layerwise")
    return masks, records


def _solved(
    layer: Layer, moments: Moments, asked: tuple[Tensor, float], rule: LayerRule, repair: Repair | None
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return new weight, mask and change of the bias, which are written into the layer."""
    weight, sparsity = asked
    mean, cross = centred(layer, moments) if repair else (None, moments.cross if moments.is_paired else None)
    goal = weight
    if cross is not None:  # what is pruned is the weight that serves best here, not the one there was
        gram = moments.gram if mean is None else moments.gram - mean.unsqueeze(2) * mean.unsqueeze(1)
        goal = retarget(weight, gram, cross)
    new, mask = rule(goal, moments.gram, sparsity, mean=mean)
    if repair is None:
        layer.weight.copy_(layer.upright(new))
        return new, mask, 0.0
    new = repair(weight, mask, moments.gram, mean=mean, cross=cross)
    return new, mask, write_(layer, new, weight, moments, {})


def _wanted(
    model: nn.Module,
    sparsity: float | Mapping[str, float],
    rule: LayerRule | Mapping[str, LayerRule],
    weights: Iterable[str] | None,
) -> dict[str, Layer]:
    """Return the layers to prune by name."""
    known = dict(model.named_parameters(remove_duplicate=False))
    tables = {"sparsity": sparsity, "rule": rule}
    by_name = {key: given for key, given in tables.items() if isinstance(given, Mapping)}
    if weights is not None:
        names = list(weights)
    elif by_name:
        names = list(next(iter(by_name.values())))
    else:
        names = [
            name for name, p in model.named_parameters() if p.ndim > 1 and layer_of(model, name) is not None
        ]
    found: dict[str, Layer] = {}
    for name in names:
        if name not in known:
            raise ValueError(f"prune.prune_layerwise: {unknown('parameter', name, known)}")
        for key, table in by_name.items():
            if name not in table:
                raise ValueError(f"prune.prune_layerwise: in {key}: {unknown('weight', name, table)}")
        check_sparsity("prune_layerwise", sparsity[name] if isinstance(sparsity, Mapping) else sparsity)
        layer = layer_of(model, name)
        if layer is None:
            raise ValueError(
                f"prune.prune_layerwise: '{name}' is not the untied weight of a linear layer, convolution or"
                " an attention projection; leave it out of weights="
            )
        found[name] = layer
    return found
