"""Rules of operations that take parts of a dimension: slices, splits, gates."""

import torch
from torch import Tensor

from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.move import as_returned, carry
from tonsor.shrink.value import Call, Value, dims_of

PARTS = 16  # equal parts up to which they lose the same channels; more are cut freely
FIRST = "one channel of a part must stay"


def part(call: Call, labels: Labels, /) -> Value:
    """Carry out a slice. Where it is one of several equal parts, all of these lose the same channels.

    So the code that counts them by dividing a size goes on to run. A part that is not equal to the rest
    loses what it loses; its numbers are rewritten later.
    """
    value = call.first()
    dim = dims_of(call.given["dim"], value.ndim)[0]
    size, taken = value.shape[dim], call.shape[dim]
    if taken == size:
        return carry(call, value, labels)[0]
    start = _start(call, size)
    steps = call.given.get("step", 1) != 1
    layers = []
    for layer in map(labels.tidy, value.layers):
        if dim not in varying(layer):
            layers.append(layer)
        elif steps or taken < 2 or len(varying(layer)) > 1:
            layers.append(labels.settle(layer, [dim], call.name))
        elif size % taken == 0 and start % taken == 0 and size // taken <= PARTS:
            layers.append(_fold(layer, dim, size // taken, labels, call.name))
        else:
            _hold(layer.narrow(dim, start, taken), dim, labels)
            layers.append(layer)
    return carry(call, Value(value.shape, tuple(layers), value.live), labels)[0]


def split(call: Call, labels: Labels, /) -> Value | list[Value]:
    """Carry out a split: equal parts lose the same channels, others lose what they lose."""
    value = call.first()
    dim = dims_of(call.given["dim"], value.ndim)[0]
    sizes = [shape[dim] for shape in call.shapes]
    layers = []
    for layer in map(labels.tidy, value.layers):
        if dim not in varying(layer) or len(sizes) == 1:
            layers.append(layer)
        elif len(varying(layer)) > 1:
            layers.append(labels.settle(layer, [dim], call.name))
        elif len(set(sizes)) == 1 and sizes[0] > 1:
            layers.append(_fold(layer, dim, len(sizes), labels, call.name))
        else:
            for own in torch.split(layer, sizes, dim):
                _hold(own, dim, labels)
            layers.append(layer)
    return as_returned(call, carry(call, Value(value.shape, tuple(layers), value.live), labels))


def glu(call: Call, labels: Labels, /) -> Value:
    """Join the two halves, of which one gates the other."""
    value = call.first()
    dim = dims_of(call.given["dim"], value.ndim)[0]
    half = value.shape[dim] // 2
    layers = []
    for layer in map(labels.tidy, value.layers):
        gated = dim in varying(layer)
        folded = _fold(layer, dim, 2, labels, call.name).narrow(dim, 0, half) if gated else layer
        layers.append(labels.tidy(folded))
    live = value.whole(value.live)
    return Value(call.shape, tuple(layers), live.narrow(dim, 0, half) | live.narrow(dim, half, half))


def _start(call: Call, size: int) -> int:
    """Return where a slice begins."""
    start = call.given["start"]
    start = int(start) if isinstance(start, int) else 0
    return max(start + size, 0) if start < 0 else start


def _hold(own: Tensor, dim: int, labels: Labels) -> None:
    """Let the first channel of a part stay, so that the part is never empty."""
    labels.freeze(own.narrow(dim, 0, 1), FIRST)


def _fold(layer: Tensor, dim: int, parts: int, labels: Labels, name: str) -> Tensor:
    """Join the labels of equal parts along a dimension; unequal parts are frozen."""
    if layer.shape[dim] % parts:
        labels.freeze(layer, name)
        return layer
    grid = layer.reshape((*layer.shape[:dim], parts, -1, *layer.shape[dim + 1 :]))
    labels.meet(grid, grid.narrow(dim, 0, 1), name)
    return labels.find(layer)
