"""Rules of normalisations: their parameters join the channels, their statistics may freeze them."""

from dataclasses import replace

from tonsor.shrink.elementwise import meet_values
from tonsor.shrink.labels import DIRECTION, Labels, varying
from tonsor.shrink.mixing import mix
from tonsor.shrink.product import Factor, summed
from tonsor.shrink.value import Call, Value


def batch_norm(call: Call, labels: Labels, /) -> Value:
    """Join each channel with its scale, shift and running statistics; a zero scale makes it constant."""
    x = call.first()
    own = [dim for dim in range(x.ndim) if dim != 1]
    if call.given["training"]:
        x = _carried(x, mix(x, own, x.shape, labels, call.name, statistic=True))
    joined = meet_values([x, *_channel_wise(call, x.ndim)], call.shape, labels, call.name)
    weight = call.value("weight")
    if weight is None or weight.real is None:
        return joined
    scaled = (weight.real != 0).cpu().reshape((-1,) + (1,) * (x.ndim - 2))
    return Value(joined.shape, joined.layers, joined.live & scaled)


def instance_norm(call: Call, labels: Labels, /) -> Value:
    """Join each channel with its parameters; its own statistics do not concern the others."""
    x = call.first()
    alone = _carried(x, mix(x, list(range(2, x.ndim)), x.shape, labels, call.name))
    return meet_values([alone, *_channel_wise(call, x.ndim)], call.shape, labels, call.name)


def group_norm(call: Call, labels: Labels, /) -> Value:
    """Join the channels that share statistics: a group goes whole. One group alone is a layer norm.

    A group of one channel is an instance norm.
    """
    x, groups = call.first(), call.given["num_groups"]
    if groups == x.shape[1]:
        return instance_norm(call, labels)
    if groups == 1:
        alone = _carried(x, mix(x, list(range(1, x.ndim)), x.shape, labels, call.name, statistic=True))
        return meet_values([alone, *_channel_wise(call, x.ndim)], call.shape, labels, call.name)
    line = labels.along(x.layers, 1, x.shape[1], x.fixed or call.name).view(groups, -1)
    labels.meet(line, line[:, :1], call.name)
    alone = _carried(x, mix(x, list(range(2, x.ndim)), x.shape, labels, call.name))
    return meet_values([alone, *_channel_wise(call, x.ndim)], call.shape, labels, call.name)


def layer_norm(call: Call, labels: Labels, /) -> Value:
    """Freeze the channels that are normalised together, or let them go with the statistics of the rest."""
    x = call.first()
    last = len(call.given["normalized_shape"])
    dims = list(range(x.ndim - last, x.ndim))
    alone = _carried(x, mix(x, dims, x.shape, labels, call.name, statistic=True))
    return meet_values([alone, *call.values[1:]], call.shape, labels, call.name)


def weight_norm(call: Call, labels: Labels, /) -> Value:
    """Join each row with its length; a row is never set to zero. What the length is a sum of can go if it is.

    Without a length for each row the one length there is stays, and so do the rows.
    """
    v, g, dim = call.given["v"], call.given["g"], call.given["dim"]
    for layer in map(labels.tidy, v.layers):
        if varying(layer) == {dim % v.ndim}:
            labels.mark(layer, DIRECTION)
            if g.ndim != v.ndim:
                labels.freeze(layer, call.name)
    joined = meet_values(call.values, call.shape, labels, call.name)
    read = []
    for layer in map(labels.tidy, joined.layers):
        for other in varying(layer) - {dim % v.ndim}:
            factor = Factor(v, "abcdefgh"[: v.ndim])
            line = labels.along([layer], other, v.shape[other], call.name)
            read += [summed([factor], factor.names[other], line)] if v.real is not None else []
    return replace(joined, contractions=tuple(read))


def _carried(value: Value, mixed: Value) -> Value:
    """Return the mixed value with what is known of the one before."""
    return Value(mixed.shape, mixed.layers, mixed.live, value.fixed)


def _channel_wise(call: Call, ndim: int) -> list[Value]:
    """Return the parameters, one number for each channel, laid along dimension 1."""
    tail = (1,) * (ndim - 2)
    return [
        Value(
            (value.shape[0], *tail),
            tuple(layer.reshape(-1, *tail) for layer in value.layers),
            value.live.reshape((-1, *tail)),
            value.fixed,
            value.constant,
        )
        for value in call.values[1:]
    ]
