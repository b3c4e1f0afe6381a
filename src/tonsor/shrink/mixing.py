"""Rules of operations that mix the elements along dimensions: reductions, softmax, pooling, sorting."""

import re

import torch
from torch import Tensor

from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.value import Call, Value, dims_of

ROUNDINGS = 64  # by which a constant may differ from one position to another


def reduce(call: Call, labels: Labels, /) -> list[Value] | Value:
    """Mix along the dimensions given as `dim`, all if none: channels along them must stay."""
    value = call.first()
    return _each(call, value, dims_of(call.given.get("dim"), value.ndim), labels)


def spatial(call: Call, labels: Labels, /) -> list[Value] | Value:
    """Mix along the last dimensions, as many as the operation's name says: pooling, resizing."""
    value = call.first()
    found = re.search(r"(\d)d", call.name)
    count = int(found[1]) if found else value.ndim - 2
    dims = list(range(value.ndim - count, value.ndim))
    if "adaptive" in call.name:  # what keeps its size is not mixed
        dims = [dim for dim in dims if call.shape[dim] != value.shape[dim]]
    return _each(call, value, dims, labels)


def mix(value: Value, dims: list[int], shape: tuple[int, ...], labels: Labels, name: str) -> Value:
    """Return what remains of a value whose elements were mixed along dimensions."""
    kept = len(shape) == value.ndim
    layers: list[Tensor] = []
    for layer in (labels.settle(layer, dims, name) for layer in value.layers):
        mixed = varying(layer) & set(dims)
        if mixed and not (kept and all(shape[dim] == value.shape[dim] for dim in mixed)):
            continue  # frozen, and gone
        layers.append(layer if kept else _without(layer, dims))
    live = restless(value, dims)
    for dim in dims:
        live = live.any(dim, keepdim=True)
    return Value(shape, tuple(layers), live if kept else _without(live, dims))


def restless(value: Value, dims: list[int]) -> Tensor:
    """Return what is live, or uneven along dimensions that are mixed.

    A constant that differs by position, as beside a zero padding, gives another sum for another size of
    the input: it is no constant.
    """
    if value.real is None or not dims or not all(value.shape):
        return value.live
    first = value.real
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    uneven = value.real != first
    if value.real.is_floating_point():
        near = ROUNDINGS * torch.finfo(value.real.dtype).eps * value.real.abs().max()
        uneven = (value.real - first).abs() > near
    return value.live | uneven.cpu()


def _each(call: Call, value: Value, dims: list[int], labels: Labels) -> list[Value] | Value:
    """Mix once for every tensor that the operation returns."""
    results = [mix(value, dims, shape, labels, call.name) for shape in call.shapes]
    return results if len(call.op._schema.returns) > 1 else results[0]


def _without(tensor: Tensor, dims: list[int]) -> Tensor:
    """Return the tensor without dimensions that have size 1."""
    return tensor.reshape([n for dim, n in enumerate(tensor.shape) if dim not in dims])
