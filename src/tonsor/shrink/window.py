"""Rules of operations that look at windows, corners or chosen places of each channel."""

from torch import Tensor

from tonsor.shrink.elementwise import meet_values
from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.mixing import mix
from tonsor.shrink.move import carry
from tonsor.shrink.value import Call, NoRule, Value, dims_of


def im2col(call: Call, labels: Labels, /) -> Value:
    """Repeat each channel's label for the places of its window."""
    value = call.first()
    times = call.shape[-2] // value.shape[-3]
    dim = value.ndim - 3
    layers = []
    for layer in (labels.settle(layer, [dim + 1, dim + 2], call.name) for layer in value.layers):
        if not varying(layer) & {dim + 1, dim + 2}:
            own = layer.repeat_interleave(times, dim) if dim in varying(layer) else layer
            layers.append(own.reshape(own.shape[:-1]))
    return Value(call.shape, tuple(layers), _somewhere(value, call))


def col2im(call: Call, labels: Labels, /) -> Value:
    """Join the labels of a window's places: they are one channel again."""
    value = call.first()
    dim = value.ndim - 2
    channels = call.shape[-3]
    layers = []
    for layer in (labels.settle(layer, [dim + 1], call.name) for layer in value.layers):
        if varying(layer) & {dim + 1}:
            continue
        if dim in varying(layer):
            grid = layer.reshape(*layer.shape[:dim], channels, -1)
            labels.meet(grid, grid[..., :1], call.name)
            layers.append(labels.find(grid[..., :1])[..., None])
        else:
            layers.append(layer[..., None])
    return Value(call.shape, tuple(layers), _somewhere(value, call))


def unfold(call: Call, labels: Labels, /) -> Value:
    """Carry out sliding windows along a dimension: no channel may be lost along it."""
    value = call.first()
    dim = dims_of(call.given["dimension"], value.ndim)
    layers = tuple(labels.settle(layer, dim, call.name) for layer in value.layers)
    return carry(call, Value(value.shape, layers, value.live), labels)[0]


def sample(call: Call, labels: Labels, /) -> Value:
    """Keep each channel: places of it are chosen by a grid, which stays."""
    value, grid = call.values[:2]
    for layer in grid.layers:
        labels.freeze(layer, call.name)
    here = list(range(2, value.ndim))
    kept = tuple(labels.settle(layer, here, call.name) for layer in value.layers)
    layers = tuple(layer for layer in kept if not varying(layer) & set(here))
    return Value(call.shape, layers, _somewhere(value, call) | grid.live.any())


def triangle(call: Call, labels: Labels, /) -> Value:
    """Set a corner to zero: no channel may be lost along the last two dimensions."""
    value = call.first()
    last = [value.ndim - 2, value.ndim - 1]
    return mix(value, last, call.shape, labels, call.name)


def gather(call: Call, labels: Labels, /) -> Value:
    """Choose places along one dimension: no channel may be lost along it, others go with the index.

    An index without labels along another dimension was widened to it, and is cut to what is left.
    """
    value, index = call.values
    if call.given["dim"] is None:
        raise NoRule("it counts all elements")
    dim = dims_of(call.given["dim"], value.ndim)[0]
    sizes = [1 if own == dim else size for own, size in enumerate(value.shape)]
    whole = _without(value, dim, call.shape, labels, call.name)
    chosen = _without(index, dim, call.shape, labels, call.name)
    kept = Value(tuple(sizes), whole, value.live.any().reshape((1,) * value.ndim), value.fixed)
    labelled = {own for layer in chosen for own in varying(layer)}
    widened = tuple(size if own in labelled | {dim} else 1 for own, size in enumerate(call.shape))
    places = Value(widened, chosen, index.live.any().reshape((1,) * value.ndim), index.fixed)
    return meet_values([kept, places], call.shape, labels, call.name)


def _without(value: Value, dim: int, sizes: tuple[int, ...], labels: Labels, name: str) -> tuple[Tensor, ...]:
    """Return the layers that vary along other dimensions alone, where these have the sizes given."""
    kept = []
    for layer in (labels.settle(layer, [dim], name) for layer in value.layers):
        if any(sizes[other] != value.shape[other] for other in varying(layer) - {dim}):
            labels.freeze(layer, name)
        elif dim not in varying(layer):
            kept.append(layer)
    return tuple(kept)


def _somewhere(value: Value, call: Call) -> Tensor:
    """Return that all can change if anything can."""
    live: Tensor = value.live.any().reshape((1,) * len(call.shape))
    return live
