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


def measure(call: Call, labels: Labels, /) -> list[Value] | Value:
    """Mix as `reduce` does; a mean, a deviation or a norm may be that of the channels which stay."""
    value = call.first()
    return _each(call, value, dims_of(call.given.get("dim"), value.ndim), labels, statistic=True)


def spatial(call: Call, labels: Labels, /) -> list[Value] | Value:
    """Mix along the last dimensions, as many as the operation's name says: pooling, resizing."""
    value = call.first()
    found = re.search(r"(\d)d", call.name)
    count = int(found[1]) if found else value.ndim - 2
    dims = list(range(value.ndim - count, value.ndim))
    if "adaptive" in call.name:  # what keeps its size is not mixed
        dims = [dim for dim in dims if call.shape[dim] != value.shape[dim]]
    return _each(call, value, dims, labels)


def mix(
    value: Value,
    dims: list[int],
    shape: tuple[int, ...],
    labels: Labels,
    name: str,
    *,
    statistic: bool = False,
) -> Value:
    """Return what remains of a value whose elements were mixed along dimensions.

    Of a statistic, channels may be lost where the search for groups is free to: its value then is another
    one, so that nothing it enters is a constant but what is made of weights alone.
    """
    kept = len(shape) == value.ndim
    layers: list[Tensor] = []
    settle = _measured if statistic else Labels.settle
    measured = len(labels.measured)
    for layer in (settle(labels, layer, dims, name) for layer in value.layers):
        mixed = varying(layer) & set(dims)
        if mixed and not (kept and all(shape[dim] == value.shape[dim] for dim in mixed)):
            continue  # it has no channels along what was mixed any more
        layers.append(layer if kept else _without(layer, dims))
    live = restless(value, dims)
    for dim in dims:
        live = live.any(dim, keepdim=True)
    live = live | (len(labels.measured) > measured and not value.constant)
    return Value(shape, tuple(layers), live if kept else _without(live, dims))


def _measured(labels: Labels, layer: Tensor, dims: list[int], name: str) -> Tensor:
    """Let labels that vary along these dimensions alone go where that is free; settle all others."""
    layer = labels.tidy(layer)
    if not labels.freedom.width or not varying(layer) or not varying(layer) <= set(dims):
        return labels.settle(layer, dims, name)
    labels.measured.append(layer)
    return layer


def restless(value: Value, dims: list[int]) -> Tensor:
    """Return what is live, or uneven along dimensions that are mixed.

    A constant that differs by position, as beside a zero padding, gives another sum for another size of
    the input: it is no constant.
    """
    if value.real is None or not dims or not all(value.shape) or bool(value.live.all()):
        return value.live
    along = varying(value.live)
    if len(along) != 1 or along <= set(dims):
        return value.live | _uneven(value.real, dims, value.real).cpu()
    [dim] = along  # the constant channels alone are looked at
    still = (~value.live).reshape(-1).nonzero().flatten()
    real = value.real.index_select(dim, still.to(value.real.device))
    uneven = _uneven(real, dims, value.real).cpu()
    if not bool(uneven.any()):
        return value.live
    return value.whole(value.live).clone().index_copy_(dim, still, uneven)


def _uneven(real: Tensor, dims: list[int], whole: Tensor) -> Tensor:
    """Return what differs from the first along these dimensions by more than roundings of the largest."""
    first = real
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    uneven = real != first
    if real.is_floating_point() and bool(uneven.any()):
        near = ROUNDINGS * torch.finfo(real.dtype).eps * whole.abs().max()
        uneven = (real - first).abs() > near
    return uneven


def _each(
    call: Call, value: Value, dims: list[int], labels: Labels, *, statistic: bool = False
) -> list[Value] | Value:
    """Mix once for every tensor that the operation returns."""
    results = [mix(value, dims, shape, labels, call.name, statistic=statistic) for shape in call.shapes]
    return results if len(call.op._schema.returns) > 1 else results[0]


def _without(tensor: Tensor, dims: list[int]) -> Tensor:
    """Return the tensor without dimensions that have size 1."""
    return tensor.reshape([n for dim, n in enumerate(tensor.shape) if dim not in dims])
