"""Heal: what masks take from a model's layers is made up for by the weights that stay, without labels."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.prune.layers import Layer, layer_of
from tonsor.prune.moments import Moments
from tonsor.prune.refit import refit
from tonsor.prune.repaired import Repaired, calibration, centred, record, write_
from tonsor.prune.solvers import Repair
from tonsor.prune.walk import Dense, walk
from tonsor.spelling import unknown
from tonsor.tensors import apply_masks_


@torch.no_grad()
def heal(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Iterable[tuple[Any, Any]],
    /,
    *,
    repair: Repair = refit,
    target: str = "dense",
) -> list[Repaired]:
    r"""Write the masks into a model and refit what stays, layer by layer, to what the dense layers gave.

    No labels, no gradients, no learning rate: each layer's kept weights and its bias solve a least-squares
    problem on what the layer is fed by the layers already healed. Linear layers, convolutions, the
    projections of `nn.MultiheadAttention` and Hugging Face's `Conv1D` are refitted; what else has a mask,
    is tied to another weight, or is not called by the batches is masked only, and the record says so.

    Afterwards, modes, buffers, random state and hooks are as before. The moments of one group of layers are
    held at a time. A chain of blocks (of a transformer, say; call it without a cache) is walked block by
    block on stored inputs, any other model is run up to each layer.

    Args:
        model: The model, changed in place; dense when it is handed in.
        masks: Boolean masks by parameter name, true where the weight stays.
        batches: Pairs of inputs and targets, as for `collect`; targets are not looked at. A few thousand
            positions a layer are enough, more than it has input features at least.
        repair: Refits one weight; `functools.partial(refit, damping=...)` tunes it.
        target: "dense": the outputs of the dense model, which makes up for the layers before as well, and
            which removed neurons need; the dense weights are kept meanwhile, those of a chain block by
            block. "current": what the dense layer would give from its current inputs.

    Returns:
        A record for each masked weight, in the order of the calls; those that were masked only come first.

    Raises:
        ValueError: If a mask does not fit, the target is not known, or there is no batch; nothing has been
            changed then. After an error in a later layer the layers before it are healed.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 8)
        >>> masks = {"0.weight": torch.rand(8, 8) > 0.5}
        >>> record, = heal(model, masks, [(x, None)])
        >>> record.after < record.before, bool((model[0].weight[~masks["0.weight"]] == 0).all())
        (True, True)

    References:
        Meng et al., 2024, "ALPS", https://arxiv.org/abs/2406.07831
        He et al., 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
        https://arxiv.org/abs/1707.06168
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        _check_mask(name, mask, known)
    calls = calibration("heal", batches, target)
    found = {name: layer_of(model, name) for name in masks}
    layers = {name: layer for name, layer in found.items() if layer is not None}
    own = {name for layer in layers.values() for name in layer.parameters}
    others = {name: mask for name, mask in masks.items() if name not in own}
    dense = Dense() if target == "dense" else None
    if dense is not None:
        dense.keep(known[name] for name in others)
    apply_masks_(known, others)
    records: list[Repaired] = []
    visited = walk(model, list(layers.values()), calls, partial(_refitted, masks, repair, records), dense)
    left = [name for name, layer in layers.items() if layer not in visited]
    for name in left:
        apply_masks_(known, {n: masks[n] for n in layers[name].parameters if n in masks})
    return [
        *(_masked_only(name, masks[name], "masked only: no layer of its own") for name in others),
        *(_masked_only(name, masks[name], "masked only: not called by the batches") for name in left),
        *records,
    ]


def _refitted(
    masks: Mapping[str, Tensor], repair: Repair, records: list[Repaired], layer: Layer, moments: Moments
) -> None:
    """Refit one layer in place and note what came of it."""
    started = time.perf_counter()
    weight = layer.upright(layer.weight.detach().clone())
    mask = layer.upright(masks[layer.name]).to(weight.device) if layer.name in masks else weight == weight
    mean, cross = centred(layer, moments)
    new = repair(weight, mask, moments.gram, mean=mean, cross=cross)
    shift = write_(layer, new, weight, moments, masks)
    records.append(record(layer, (weight, mask, new), shift, moments, started))


def _masked_only(name: str, mask: Tensor, why: str) -> Repaired:
    """Return the record of a weight that was not refitted."""
    return Repaired(name, 1 - float(mask.double().mean()) if mask.numel() else 0.0, note=why)


def _check_mask(name: str, mask: Tensor, known: Mapping[str, Tensor]) -> None:
    """Refuse a mask of no parameter, or of another shape or type."""
    if name not in known:
        raise ValueError(f"prune.heal: in masks: {unknown('parameter', name, known)}")
    if mask.dtype != torch.bool or mask.shape != known[name].shape:
        raise ValueError(
            f"prune.heal: the mask of '{name}' must be boolean of shape {tuple(known[name].shape)}; got"
            f" {mask.dtype} of shape {tuple(mask.shape)}"
        )
