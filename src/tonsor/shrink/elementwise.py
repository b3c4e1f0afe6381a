"""Rules of operations that work element by element: what meets is one channel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.value import Call, NoRule, Value

ONE = "all its channels are one"


def meet(call: Call, labels: Labels, /) -> Value:
    """Join the labels of all tensors, broadcast.

    A tensor without a label for a channel must not have the channel's size: then the channel stays.
    """
    return meet_values(call.values, call.shape, labels, call.name)


def scale(call: Call, labels: Labels, /) -> Value:
    """Join as `meet` does; a constant zero makes what it is multiplied with constant."""
    joined = meet(call, labels)
    if len(call.values) != 2:
        return joined
    a, b = call.values
    live = _unless_zero(a, b, joined.ndim) | _unless_zero(b, a, joined.ndim)
    return Value(joined.shape, joined.layers, live)


def same(call: Call, labels: Labels, /) -> Value:
    """Return the first tensor's labels: a copy or a cast."""
    return Value(call.shape, call.first().layers, call.first().live)


def dropout(call: Call, labels: Labels, /) -> Value:
    """Return the tensor's labels where dropout is switched off; where it is on there is no rule."""
    if call.given["train"]:
        raise NoRule("it draws random numbers")
    return same(call, labels)


def like(call: Call, labels: Labels, /) -> Value:
    """Return the first tensor's labels on one constant number, as of `zeros_like` or `fill`."""
    live = torch.tensor(any(bool(value.live.any()) for value in call.values[1:]))
    return Value(call.shape, call.first().layers, live.reshape((1,) * len(call.shape)))


def meet_values(values: Sequence[Value], shape: tuple[int, ...], labels: Labels, name: str) -> Value:
    """Join the layers of values that are broadcast against each other."""
    layers = []
    for column in align(values, len(shape), labels):
        _yield(column, labels, name)
        joined = labels.tidy(_met(values, column, len(shape), labels, name))
        alone = any(layer is None for layer in column) and labels.loose(joined)
        layers += [] if alone else [joined]
    live = torch.zeros((1,) * len(shape), dtype=torch.bool)
    for value in values:
        live = live | right(value.live, len(shape)).to(live.device)
    return Value(shape, tuple(layers), live)


def _met(
    values: Sequence[Value], column: Sequence[Tensor | None], ndim: int, labels: Labels, name: str
) -> Tensor:
    """Join the layers of one column; a value of full size without one freezes it."""
    joined = next(layer for layer in column if layer is not None)
    for place, (value, layer) in enumerate(zip(values, column, strict=True)):
        reason = value.fixed or name
        if layer is None:
            sizes = (1,) * (ndim - value.ndim) + value.shape
            full = [dim for dim in varying(joined) if sizes[dim] > 1]
            joined = labels.settle(joined, full, reason)
        elif place:
            joined = labels.meet(joined, layer, reason)
    return joined


def _yield(column: list[Tensor | None], labels: Labels, name: str) -> None:
    """Freeze a buffer that lies along a part of another's dimensions, as cosines along the inside of heads.

    The heads can go then. Joined with it, the same places of all heads would be one.
    """
    for place, layer in enumerate(column):
        wider = [o for o in column if o is not None and layer is not None and varying(layer) < varying(o)]
        if layer is not None and wider and labels.loose(layer, labels.weak):
            labels.freeze(layer, name)
            column[place] = None


def align(values: Sequence[Value], ndim: int, labels: Labels) -> list[list[Tensor | None]]:
    """Put the layers that vary along a common dimension into one column, a place for each value."""
    columns: list[list[Tensor | None]] = []
    for place, value in enumerate(values):
        for layer in (labels.tidy(right(layer, ndim)) for layer in value.layers):
            if not varying(layer):  # all its channels are one: it can lose none, and need not be followed
                labels.freeze(layer, ONE)
                continue
            column = next((c for c in columns if _overlap(c, layer)), None)
            if column is None:
                column = [None] * len(values)
                columns.append(column)
            present = column[place]
            column[place] = layer if present is None else labels.meet(present, layer, value.fixed)
    return columns


def right(tensor: Tensor, ndim: int) -> Tensor:
    """Return the tensor with dimensions of size 1 added in front."""
    return tensor.reshape((1,) * (ndim - tensor.ndim) + tensor.shape)


def _overlap(column: list[Tensor | None], layer: Tensor) -> bool:
    """Say whether the layer varies along a dimension that the column's layers vary along."""
    return any(other is not None and varying(other) & varying(layer) for other in column)


def _unless_zero(value: Value, factor: Value, ndim: int) -> Tensor:
    """Say where the value is live and its factor is not a constant zero."""
    live = right(value.live, ndim)
    if factor.real is None or bool(factor.live.all()) or not bool(live.any()):
        return live
    return live & (right(factor.real != 0, ndim).to(live.device) | right(factor.live, ndim))
