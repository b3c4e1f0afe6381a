"""Rules of data movement: the same operation is carried out on the labels."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from tonsor.shrink.compact import even
from tonsor.shrink.elementwise import align, meet, meet_values
from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.node import key
from tonsor.shrink.value import Call, NoRule, Value, dims_of

VIEWS = ("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias")
TURNS = ("aten.roll", "aten.flip")
MADE = 2**15  # sizes of a tensor of the model's own making up to which it has labels


def move(call: Call, labels: Labels, /) -> Value | list[Value]:
    """Carry the operation out on each layer; what it splits may only lose whole slices later."""
    return as_returned(call, carry(call, call.first(), labels))


def widen(call: Call, labels: Labels, /) -> Value:
    """Carry a widening out; a constant follows what it meets, as one filter for all channels does."""
    value = call.first()
    moved = carry(call, value, labels)[0]
    lead = (1,) * (moved.ndim - value.ndim) + value.shape
    layers = list(moved.layers)
    for dim, size in enumerate(call.shape):
        grown = value.constant and lead[dim] == 1 and 1 < size <= MADE
        if grown and not any(dim in varying(layer) for layer in layers):
            shape = [size if own == dim else 1 for own in range(moved.ndim)]
            layers.append(labels.new(size).reshape(shape))
    return Value(call.shape, tuple(layers), moved.live)


def pick(call: Call, labels: Labels, /) -> Value | list[Value]:
    """Carry out an operation that counts positions along dimensions: no channel may be lost along them.

    A slice that takes everything counts nothing.
    """
    value = call.first()
    dims = dims_of(call.given.get("dim", call.given.get("dims")), value.ndim)
    if len(call.shapes) == 1 and call.shape == value.shape and "shifts" not in call.given:
        dims = []
    layers = tuple(labels.settle(layer, dims, call.name) for layer in value.layers)
    for other in call.values[1:]:
        _freeze(other, labels, call.name)
    return as_returned(call, carry(call, Value(value.shape, layers, value.live), labels))


def index(call: Call, labels: Labels, /) -> Value:
    """Carry out an indexing: no channel may be lost along what is indexed, so any index tells the labels."""
    value = call.first()
    given = call.given["indices"]
    dims = [dim for dim, i in enumerate(given) if i is not None]
    places = tuple(slice(None) if i is None else _first(i) for i in given)
    for other in call.values[1:]:
        _freeze(other, labels, call.name)
    layers = [labels.settle(layer, dims, call.name) for layer in value.layers]
    moved = [layer[places] for layer in layers]
    live = value.live.any() | torch.stack([i.live.any() for i in call.values[1:]]).any()
    return Value(
        call.shape, tuple(labels.tidy(layer) for layer in moved), live.reshape((1,) * len(call.shape))
    )


def shuffle(call: Call, labels: Labels, /) -> Value:
    """Carry out a pixel shuffle: the channels that become one channel's pixels are joined."""
    moved = carry(call, call.first(), labels)[0]
    dims = [moved.ndim - 2, moved.ndim - 1]
    layers = tuple(labels.settle(layer, dims, call.name) for layer in moved.layers)
    return Value(moved.shape, layers, moved.live)


def cat(call: Call, labels: Labels, /) -> Value:
    """Lay the labels side by side, zeros where a part has none; those in a line with them are joined."""
    values = [value for value in call.values if value.shape != (0,)]
    dim = dims_of(call.given["dim"], len(call.shape))[0]
    layers = []
    for column in align(values, len(call.shape), labels):
        parts = _parts(values, column, dim)
        if not any(layer is not None and dim in varying(layer) for layer in column):
            for part, value in zip(parts[1:], values[1:], strict=True):
                reason = value.fixed or values[0].fixed or call.name
                labels.meet(parts[0].narrow(dim, 0, 1), part.narrow(dim, 0, 1), reason)
        layers.append(_registered(torch.cat(parts, dim), labels))
    live = torch.cat(_parts(values, [value.live for value in values], dim), dim)
    return Value(call.shape, tuple(layers), even(live))


def stack(call: Call, labels: Labels, /) -> Value:
    """Lay the labels side by side along a new dimension."""
    ndim = len(call.shape)
    dim = dims_of(call.given["dim"], ndim)[0]
    wide = []
    for value in call.values:
        shape = (*value.shape[:dim], 1, *value.shape[dim:])
        layers = tuple(layer.unsqueeze(dim) for layer in value.layers)
        live = value.live.unsqueeze(dim)
        wide.append(Value(shape, layers, live, value.fixed))
    return cat(Call(call.name, call.op, {"tensors": wide, "dim": dim}, call.shapes), labels)


def pad(call: Call, labels: Labels, /) -> Value:
    """Widen dimensions; a channel that is padded on gets neighbours without a label."""
    value = call.first()
    amounts = list(call.given["pad"])
    padded = [value.ndim - 1 - i // 2 for i, amount in enumerate(amounts) if amount]
    fill = call.given.get("mode", "constant") == "constant"
    layers = []
    counted = padded if not fill or any(amount < 0 for amount in amounts) else []
    for layer in (labels.settle(layer, counted, call.name) for layer in value.layers):
        here = varying(layer) & set(padded)
        if here and not fill:
            continue  # frozen, and its size is another one now
        own = [a if value.ndim - 1 - i // 2 in here else 0 for i, a in enumerate(amounts)]
        layers.append(torch.nn.functional.pad(layer, own) if here else layer)
    live = _spread(value, value.live, padded)
    live = torch.nn.functional.pad(live, amounts) if fill else live.any().reshape((1,) * value.ndim)
    return Value(call.shape, tuple(layers), live)


def expand_as(call: Call, labels: Labels, /) -> Value:
    """Join the first tensor, widened, with the second, whose size it takes."""
    return Value(call.shape, meet(call, labels).layers, call.first().live)


def view_as(call: Call, labels: Labels, /) -> Value:
    """Carry a view out on the labels, and join them with those of the tensor whose size it takes."""
    value, other = call.values
    layers = tuple(value.whole(layer).reshape(call.shape) for layer in value.layers)
    moved = Value(call.shape, layers, value.whole(value.live).reshape(call.shape), value.fixed)
    joined = meet_values([moved, other], call.shape, labels, call.name).layers
    return Value(call.shape, tuple(_registered(layer, labels) for layer in joined), moved.live)


def made(call: Call, labels: Labels, /) -> Value:
    """Return one number in every place, as of `zeros`: its size can follow that of what it meets."""
    ndim = len(call.shape)
    layers = tuple(
        labels.new(size).reshape([size if own == dim else 1 for own in range(ndim)])
        for dim, size in enumerate(call.shape)
        if dim and 1 < size <= MADE
    )
    return Value(call.shape, layers, torch.zeros((1,) * ndim, dtype=torch.bool), call.name)


def carry(call: Call, value: Value, labels: Labels) -> list[Value]:
    """Run the operation on the layers and on what is live; return a value for each tensor it gives."""
    slot = next((name for name, given in call.given.items() if isinstance(given, Value)), "")
    if not slot:
        raise NoRule("several tensors at once")
    moved = [_run(call, slot, value, layer) for layer in value.layers]
    chosen = any(bool(other.live.any()) for other in call.values[1:])  # by an index that can change
    live = _run(call, slot, value, value.live | chosen)
    return [
        Value(
            shape,
            labels.apart([_registered(layers[i], labels) for layers in moved], call.name),
            even(live[i]),
        )
        for i, shape in enumerate(call.shapes)
    ]


def as_returned(call: Call, results: list[Value]) -> Value | list[Value]:
    """Return a list where the operation returns one."""
    return results if call.op._schema.returns[0].type.kind() == "ListType" else results[0]


def _run(call: Call, slot: str, value: Value, compact: Tensor) -> list[Tensor]:
    """Carry the operation out on one compact tensor of a value; indices are 0.

    It is spread without taking memory, and views keep it so where they can.
    """
    name = key(call.op, overload=False)
    if name in TURNS and call.given["dims"] and all(compact.shape[dim] == 1 for dim in call.given["dims"]):
        return [compact]
    if name in VIEWS:
        return [value.whole(compact).reshape(call.shape)]
    given = {
        name: torch.zeros(item.shape, dtype=torch.int64) if isinstance(item, Value) else item
        for name, item in call.given.items()
    }
    result = Call(call.name, call.op, given, call.shapes).run(**{slot: value.whole(compact)})
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _registered(layer: Tensor, labels: Labels) -> Tensor:
    """Return the layer tidied, and note it where it varies along two dimensions."""
    layer = labels.tidy(layer)
    if len(varying(layer)) > 1:
        labels.grids.append(layer)
    return layer


def _parts(values: Sequence[Value], column: Sequence[Tensor | None], dim: int) -> list[Tensor]:
    """Return the values' layers as far as they must be spread to be laid side by side; zeros without one."""
    wide = {dim}.union(*(varying(layer) for layer in column if layer is not None))
    none = torch.zeros((1,) * values[0].ndim, dtype=torch.int64)
    return [
        _spread(value, none if layer is None else layer, wide)
        for value, layer in zip(values, column, strict=True)
    ]


def _spread(value: Value, compact: Tensor, dims: Collection[int]) -> Tensor:
    """Return one of a value's compact tensors at full size along these dimensions."""
    sizes = [value.shape[dim] if dim in dims else size for dim, size in enumerate(compact.shape)]
    return compact.expand(sizes)


def _first(index: Value) -> Tensor:
    """Return an index of the first place, with as many dimensions."""
    return torch.zeros((1,) * index.ndim, dtype=torch.int64)


def _freeze(value: Value, labels: Labels, reason: str) -> None:
    """Let an index keep its size."""
    for layer in value.layers:
        labels.freeze(layer, reason)
