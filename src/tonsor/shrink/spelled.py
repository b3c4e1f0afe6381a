"""Rules of operations that are others by another name: stacks, complex numbers, corners."""

from dataclasses import replace

from tonsor.shrink.elementwise import meet, meet_values
from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.mixing import mix
from tonsor.shrink.move import carry, cat
from tonsor.shrink.value import Call, NoRule, Value

ALONG = {"hstack": 1, "vstack": 0, "row_stack": 0, "column_stack": 1, "dstack": 2}


def stacked(call: Call, labels: Labels, /) -> Value:
    """Lay tensors side by side along the dimension that the operation's name says."""
    name = call.name.partition(" in ")[0].removeprefix("aten.")
    dim = ALONG[name]
    wide = any(value.ndim != len(call.shape) for value in call.values)
    if wide or (name != "hstack" and len(call.shape) == 1):
        raise NoRule("it gives a tensor another dimension")
    dim = 0 if len(call.shape) == 1 else dim
    return cat(replace(call, given=call.given | {"dim": dim}), labels)


def together(call: Call, labels: Labels, /) -> list[Value]:
    """Widen all tensors to one shape, and join them."""
    joined = meet_values(call.values, call.shape, labels, call.name)
    return [
        Value(
            joined.shape,
            joined.layers,
            value.live.reshape((1,) * (joined.ndim - value.ndim) + value.live.shape),
        )
        for value in call.values
    ]


def paired(call: Call, labels: Labels, /) -> Value:
    """Read the last dimension, of size 2, as the parts of complex numbers: it stays."""
    value = call.first()
    last = value.ndim - 1
    layers = [labels.settle(layer, [last], call.name) for layer in value.layers]
    kept = tuple(layer[..., 0] for layer in layers if last not in varying(layer))
    return Value(call.shape, kept, value.whole(value.live).any(-1))


def parted(call: Call, labels: Labels, /) -> Value:
    """Lay the two parts of complex numbers along a new last dimension."""
    value = call.first()
    layers = tuple(layer.unsqueeze(-1) for layer in value.layers)
    return Value(
        call.shape, layers, value.live.reshape(value.live.shape + (1,) * (len(call.shape) - value.live.ndim))
    )


def diagonal(call: Call, labels: Labels, /) -> Value:
    """Take a diagonal: no channel may be lost along its two dimensions."""
    value = call.first()
    dims = [call.given["dim1"] % value.ndim, call.given["dim2"] % value.ndim]
    layers = tuple(labels.settle(layer, dims, call.name) for layer in value.layers)
    return carry(call, Value(value.shape, layers, value.live), labels)[0]


def unpool(call: Call, labels: Labels, /) -> Value:
    """Put maxima back where they were: each channel keeps its own, with the index of where."""
    count = len(call.given["output_size"])
    parts = []
    for value in call.values:
        dims = list(range(value.ndim - count, value.ndim))
        mixed = mix(value, dims, value.shape, labels, call.name)
        layers = tuple(layer for layer in mixed.layers if not varying(layer) & set(dims))
        parts.append(
            Value((*value.shape[:-count], *(1,) * count), layers, value.live.any().reshape((1,) * value.ndim))
        )
    joined = meet_values(parts, (*call.shape[:-count], *(1,) * count), labels, call.name)
    return Value(call.shape, joined.layers, joined.live)


def slope(call: Call, labels: Labels, /) -> Value:
    """Join as `meet` does where nothing is drawn at random."""
    if call.given["training"]:
        raise NoRule("it draws random numbers")
    return meet(call, labels)
