"""Rules of operations that write into chosen places, or look up bags of rows."""

from dataclasses import replace

import torch
from torch import Tensor

from tonsor.shrink.contract import embedding
from tonsor.shrink.elementwise import meet_values
from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.value import Call, Value, dims_of


def scatter(call: Call, labels: Labels, /) -> Value:
    """Write into places along one dimension: no channel may be lost along it, others are joined.

    An index without labels along another dimension was widened to it, as that of `gather` is.
    """
    value, *others = call.values
    dim = dims_of(call.given["dim"], value.ndim)[0]
    index = call.value("index")
    parts = [_beside(value, dim, value, labels, call.name)]
    for other in others:
        if other.ndim == value.ndim:
            part = _beside(other, dim, value, labels, call.name)
            parts.append(_narrow(part) if other is index else part)
        elif other is call.value("src"):  # one place is written
            parts.append(_beside(_lifted(other, dim), dim, value, labels, call.name))
        else:  # one place for each row, or one number
            for layer in other.layers:
                labels.freeze(layer, call.name)
    joined = meet_values(parts, tuple(_one(value.shape, dim)), labels, call.name)
    return Value(call.shape, joined.layers, _anywhere(call))


def put(call: Call, labels: Labels, /) -> Value:
    """Write where an index says: no channel may be lost along what is indexed; those behind it are joined."""
    value, given, new = call.first(), call.given["indices"], call.given["values"]
    if len(given) == 1 and given[0].shape == value.shape and new.shape in ((), (1,)):
        return replace(meet_values([value, given[0]], call.shape, labels, call.name), live=_anywhere(call))
    places = [(dim, i) for dim, i in enumerate(given) if i is not None]
    last = max(dim + (i.ndim if len(places) == 1 and _is_mask(i, value, dim) else 1) for dim, i in places)
    for _, i in places:
        for layer in i.layers:
            labels.freeze(layer, call.name)
    sizes = value.shape[last:]
    kept = _trailing(value, len(sizes), labels, call.name)
    written = _trailing(new, len(sizes), labels, call.name)
    joined = meet_values([kept, written], tuple(sizes), labels, call.name)
    front = (1,) * (value.ndim - len(sizes))
    layers = tuple(layer.reshape(front + layer.shape) for layer in joined.layers)
    return Value(call.shape, layers, _anywhere(call))


def bag(call: Call, labels: Labels, /) -> list[Value]:
    """Let the columns of a table be the new channels; what else is returned counts rows."""
    table = replace(call, shapes=[call.shape])
    summed = embedding(replace(table, given=call.given | {"indices": _flat(call)}), labels)
    layers = tuple(layer for layer in summed.layers if varying(layer) <= {len(call.shape) - 1})
    live = torch.ones((1,) * len(call.shape), dtype=torch.bool)
    rest = [Value(shape, (), torch.ones((1,) * len(shape), dtype=torch.bool)) for shape in call.shapes[1:]]
    return [Value(call.shape, layers, live), *rest]


def _flat(call: Call) -> Value:
    """Return what stands for the bags: one place for each, without labels."""
    return Value(call.shape[:-1], (), torch.ones((1,) * (len(call.shape) - 1), dtype=torch.bool))


def _beside(value: Value, dim: int, like: Value, labels: Labels, name: str) -> Value:
    """Return a value with one place along a dimension; what varies along it, or is shorter, is frozen."""
    layers = []
    for layer in (labels.settle(layer, [dim], name) for layer in value.layers):
        if any(value.shape[other] != like.shape[other] for other in varying(layer) - {dim}):
            labels.freeze(layer, name)
        elif dim not in varying(layer):
            layers.append(layer)
    live = torch.zeros((1,) * value.ndim, dtype=torch.bool)
    return Value(tuple(_one(value.shape, dim)), tuple(layers), live, value.fixed)


def _lifted(value: Value, dim: int) -> Value:
    """Return a value with a dimension of size 1 more."""
    shape = (*value.shape[:dim], 1, *value.shape[dim:])
    layers = tuple(layer.unsqueeze(dim) for layer in value.layers)
    return replace(value, shape=shape, layers=layers, live=value.whole(value.live).unsqueeze(dim))


def _narrow(index: Value) -> Value:
    """Return an index of size 1 along the dimensions where it has no labels."""
    labelled = {dim for layer in index.layers for dim in varying(layer)}
    shape = tuple(size if dim in labelled else 1 for dim, size in enumerate(index.shape))
    return replace(index, shape=shape)


def _one(shape: tuple[int, ...], dim: int) -> list[int]:
    """Return the shape with size 1 along a dimension."""
    return [1 if own == dim else size for own, size in enumerate(shape)]


def _is_mask(index: Value, value: Value, dim: int) -> bool:
    """Say whether an index may be a mask over several dimensions."""
    return index.ndim > 1 and index.shape == value.shape[dim : dim + index.ndim]


def _trailing(value: Value, count: int, labels: Labels, name: str) -> Value:
    """Return a value's last dimensions; no channel may be lost along those before."""
    count_own = min(count, value.ndim)
    before = list(range(value.ndim - count_own))
    settled = [labels.settle(layer, before, name) for layer in value.layers]
    kept = [layer for layer in settled if not varying(layer) & set(before)]
    layers = tuple(layer.reshape(layer.shape[len(before) :]) for layer in kept)
    shape = value.shape[len(before) :]
    return Value(shape, layers, torch.zeros((1,) * count_own, dtype=torch.bool), value.fixed)


def _anywhere(call: Call) -> Tensor:
    """Return that all can change if anything can."""
    live = torch.stack([value.live.any() for value in call.values]).any()
    return live.reshape((1,) * len(call.shape))
