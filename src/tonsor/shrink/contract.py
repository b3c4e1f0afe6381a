"""Rules of operations that sum over channels: rows of a weight make channels, columns read them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tonsor.shrink.compact import some
from tonsor.shrink.elementwise import meet, meet_values
from tonsor.shrink.labels import CONSUMER, INNER, PRODUCER, THROUGH, Labels, varying
from tonsor.shrink.mixing import restless
from tonsor.shrink.product import matmul_like, nonzero
from tonsor.shrink.value import Call, Contraction, NoRule, Value


def linear(call: Call, labels: Labels, /) -> Value:
    """Join the last dimension with the weight's columns; the weight's rows are the new channels.

    A weight that depends on the input is a factor like any other.
    """
    x, weight = call.given["input"], call.given["weight"]
    if not weight.constant and call.value("bias") is None:
        turned = replace(
            weight,
            shape=weight.shape[::-1],
            layers=tuple(layer.mT for layer in weight.layers),
            live=weight.live.mT,
            real=None if weight.real is None else weight.real.mT,
        )
        return matmul_like(call, x, turned, labels)
    return _sum(call, x, weight, call.value("bias"), x.ndim - 1, labels)


def matmul(call: Call, labels: Labels, /) -> Value:
    """Treat a constant matrix on the right as a weight `(in, out)`; any other is a factor."""
    x, weight = call.values
    if weight.ndim != 2 or not weight.constant or x.constant or x.ndim < 2:
        return matmul_like(call, x, weight, labels)
    return _sum(call, x, _turned(weight), None, x.ndim - 1, labels)


def addmm(call: Call, labels: Labels, /) -> Value:
    """Treat the second matrix as a weight `(in, out)` and what is added as its bias, if it is one."""
    bias, x, weight = call.values
    plain = bias.ndim == 1 and call.given["alpha"] == 1 and call.given["beta"] == 1
    if not plain or not weight.constant or x.constant:
        made = matmul_like(call, x, weight, labels)
        met = meet_values([made, bias], call.shape, labels, call.name)
        return replace(met, contractions=made.contractions)
    return _sum(call, x, _turned(weight), bias, 1, labels)


def conv(call: Call, labels: Labels, /) -> Value:
    """Join the channels with the weight's columns; a depthwise weight goes with its channel."""
    x, weight, groups = call.given["input"], call.given["weight"], call.given["groups"]
    dim = x.ndim - weight.ndim + 1
    x = _still(x, dim, labels, call.name)
    if groups > 1 and weight.shape[1] == 1:
        return _depthwise(call, x, weight, dim, labels)
    return _sum(call, x, weight, call.value("bias"), dim, labels)


def conv_transposed(call: Call, labels: Labels, /) -> Value:
    """Join as `conv` does; the weight is `(in, out)`. Groups have a rule only where depthwise."""
    x, weight, groups = call.given["input"], call.given["weight"], call.given["groups"]
    dim = x.ndim - weight.ndim + 1
    x = _still(x, dim, labels, call.name)
    if groups == 1:
        real = None if weight.real is None else weight.real.transpose(0, 1)
        layers = tuple(layer.transpose(0, 1) for layer in weight.layers)
        shape = (weight.shape[1], weight.shape[0], *weight.shape[2:])
        turned = replace(weight, shape=shape, layers=layers, real=real)
        return _sum(call, x, turned, call.value("bias"), dim, labels, bare=False)
    if groups != x.shape[dim] or weight.shape[1] != 1:
        raise NoRule("a transposed convolution with groups")
    return _depthwise(call, x, weight, dim, labels)


def embedding(call: Call, labels: Labels, /) -> Value:
    """Let the weight's columns be the new channels; its rows are looked up and stay."""
    weight, indices = call.given["weight"], call.given["indices"]
    labels.freeze(labels.along(weight.layers, 0, weight.shape[0], call.name), call.name)
    columns = labels.along(weight.layers, 1, weight.shape[1], call.name)
    for layer in weight.layers:
        labels.mark(layer, PRODUCER if varying(layer) == {1} else THROUGH)
    live = indices.live.any().reshape((1,) * len(call.shape))
    if weight.real is not None:
        live = live & (weight.real != weight.real[:1]).any(0).cpu()
    made = columns.reshape((1,) * indices.ndim + (-1,))
    return Value(call.shape, (*(layer.unsqueeze(-1) for layer in indices.layers), made), live)


def prelu(call: Call, labels: Labels, /) -> Value:
    """Join each channel with its slope."""
    x, weight = call.values
    if weight.shape[0] == 1:
        return meet(call, labels)
    tail = (1,) * max(x.ndim - 2, 0)
    layers = tuple(layer.reshape(-1, *tail) for layer in weight.layers)
    live = weight.live.reshape((-1, *tail))
    shaped = replace(weight, shape=(weight.shape[0], *tail), layers=layers, live=live)
    return meet(replace(call, given={"self": x, "weight": shaped}), labels)


def _sum(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None,
    dim: int,
    labels: Labels,
    *,
    bare: bool = True,
) -> Value:
    """Join what is summed, label what is made, and note both."""
    groups = call.given.get("groups", 1)
    beside = _beside(x, dim, labels)
    rows, columns = _sides(call, x, weight, dim, labels)
    if bias is not None:
        rows = labels.meet(rows, labels.along(bias.layers, 0, len(rows), call.name), call.name)
    for layer in weight.layers:
        side = {frozenset({0}): PRODUCER, frozenset({1}): CONSUMER}.get(frozenset(varying(layer)), 0)
        labels.mark(layer, side)
    matrix = None if weight.real is None else weight.real.unsqueeze(2).flatten(2)
    bare = bare and not _padded(call.given.get("padding", 0), weight.shape)
    named = weight.name, bias
    if labels.freedom.width and "weight" in call.given and not weight.name:
        named = "", None  # a computed weight: its numbers may be others when channels are gone
    total = Contraction(rows, columns, x, dim, matrix, groups, bare, *named)
    tail = (1,) * (x.ndim - dim - 1)
    made = rows.reshape((1,) * dim + (-1, *tail))
    layers = (*beside, labels.tidy(made))
    return Value(call.shape, layers, _live(call, x, weight, dim), contractions=(total,))


def _turned(weight: Value) -> Value:
    """Return a matrix `(in, out)` as a weight `(out, in)`."""
    layers = tuple(layer.mT for layer in weight.layers)
    real = None if weight.real is None else weight.real.mT
    shape = weight.shape[::-1]
    return replace(weight, shape=shape, layers=layers, live=weight.live.mT, real=real, name="")


def _sides(call: Call, x: Value, weight: Value, dim: int, labels: Labels) -> tuple[Tensor, Tensor]:
    """Return the labels of the channels made and of those read, the latter joined with the weight's."""
    groups = call.given.get("groups", 1)
    channels = x.shape[dim]
    for layer in map(labels.tidy, weight.layers):
        if varying(layer) & set(range(2, weight.ndim)):
            labels.freeze(layer, INNER)
    rows = labels.along(weight.layers, 0, weight.shape[0], call.name)
    own = labels.along(weight.layers, 1, weight.shape[1], call.name)
    read = labels.along(x.layers, dim, channels, x.fixed or call.name).view(groups, -1)
    read = labels.meet(read, own, x.fixed or call.name)
    if groups > 1:  # every group loses the same places
        labels.meet(read, read[:1], call.name)
        made = rows.view(groups, -1)
        labels.meet(made, made[:1], call.name)
    return labels.find(rows), labels.find(read.reshape(-1))


def _depthwise(call: Call, x: Value, weight: Value, dim: int, labels: Labels) -> Value:
    """Join each channel with its own filters."""
    for layer in map(labels.tidy, weight.layers):
        if varying(layer) & set(range(2, weight.ndim)):
            labels.freeze(layer, INNER)
    rows = labels.along(weight.layers, 0, weight.shape[0], call.name)
    bias = call.value("bias")
    if bias is not None:
        rows = labels.meet(rows, labels.along(bias.layers, 0, len(rows), call.name), call.name)
    reason = x.fixed or call.name
    beside = _beside(x, dim, labels)
    read = labels.along(x.layers, dim, x.shape[dim], reason)
    labels.meet(rows.view(len(read), -1), read.view(-1, 1), reason)
    made = labels.tidy(rows.reshape((1,) * dim + (-1,) + (1,) * (x.ndim - dim - 1)))
    return Value(call.shape, (*beside, made), _live(call, x, weight, dim))


def _beside(x: Value, dim: int, labels: Labels) -> tuple[Tensor, ...]:
    """Return the layers that have nothing to do with the channels along a dimension."""
    return tuple(layer for layer in map(labels.tidy, x.layers) if dim not in varying(layer))


def _still(x: Value, dim: int, labels: Labels, name: str) -> Value:
    """Return the input without labels that vary along the positions which a kernel mixes."""
    positions = set(range(dim + 1, x.ndim))
    layers = [labels.settle(layer, positions, name) for layer in x.layers]
    return replace(x, layers=tuple(layer for layer in layers if not varying(layer) & positions))


def _padded(padding: Any, shape: tuple[int, ...]) -> bool:
    """Say whether zeros are put around the positions."""
    if isinstance(padding, str):
        return padding == "same" and any(size > 1 for size in shape[2:])
    return any(padding) if isinstance(padding, (list, tuple)) else bool(padding)


def _live(call: Call, x: Value, weight: Value, dim: int) -> Tensor:
    """Return where the sums can change: where a weight that is not zero reads what can."""
    own = (call.value("weight") or weight).real
    if own is None or x.real is None:
        return (x.live.any() | weight.live.any()).reshape((1,) * len(call.shape))
    positions = list(range(dim + 1, x.ndim))
    live = restless(x, positions)
    if bool(weight.live.any()):
        return _live_weight(call, x, call.value("weight") or weight, live)
    along = varying(live)
    if along <= {dim} or (not positions and dim not in along):
        return _live_rows(live, weight, dim)
    return _counted(call, x.whole(live).to(own.device), own != 0).cpu()


def _live_weight(call: Call, x: Value, weight: Value, live: Tensor) -> Tensor:
    """Return where sums can change with a weight that can itself."""
    assert x.real is not None
    assert weight.real is not None
    device = weight.real.device
    moving = weight.whole(weight.live).to(device)
    live = x.whole(live).to(device)
    counted = _counted(call, live, (weight.real != 0) | moving)
    return (counted | _counted(call, live | (x.real != 0), moving)).cpu()


def _counted(call: Call, x: Tensor, weight: Tensor) -> Tensor:
    """Return where sums meet a true channel with a true weight."""
    if "weight" in call.given:
        made: Tensor = call.run(input=x.float(), weight=weight.float(), bias=None)
    else:
        made = torch.nn.functional.linear(x.float(), weight.float())
    return made > 0


def _live_rows(live: Tensor, weight: Value, dim: int) -> Tensor:
    """Return which rows read a channel that can change, where it can."""
    reads = some(nonzero(weight).flatten(2), 2) if weight.ndim > 2 else nonzero(weight)
    line = live.movedim(dim, -1).reshape(-1, live.shape[dim])
    if live.shape[dim] > 1:
        own = line.reshape(-1, reads.shape[1])
        reads = (reads.reshape(len(own), -1, reads.shape[1]) & own[:, None]).reshape(reads.shape)
    rows = some(reads, 1).reshape((1,) * dim + (-1,) + (1,) * (live.ndim - dim - 1))
    return rows & live if live.shape[dim] == 1 else rows
