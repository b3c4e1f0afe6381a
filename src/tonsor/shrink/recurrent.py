"""Rules of recurrent layers: the gates of a hidden unit go with it, in all layers and both directions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tonsor.shrink.labels import CONSUMER, PRODUCER, Labels, varying
from tonsor.shrink.value import Call, Contraction, NoRule, Value


@dataclass
class Cells:
    """Hold the labels of hidden units while layer after layer joins them.

    Example:
        >>> Cells(torch.zeros(3, dtype=torch.int64), "aten.gru").read
        []
    """

    units: Tensor
    reason: str
    read: list[Contraction] = field(default_factory=list)

    def join_(self, weights: Sequence[Value], x: Value, columns: Tensor, labels: Labels) -> None:
        """Join the gates' rows with the units, and the columns with what they read."""
        size = len(self.units)
        rows = self.units
        for place, weight in enumerate(weights):
            for layer in weight.layers:
                labels.mark(layer, PRODUCER if varying(layer) == {0} else CONSUMER)
            own = labels.along(weight.layers, 0, weight.shape[0], self.reason)
            rows = labels.meet(own.view(-1, size), self.units.view(1, -1), self.reason).reshape(-1)
            if weight.ndim == 2:
                read = self.units if place % 2 else columns
                inner = labels.along(weight.layers, 1, weight.shape[1], self.reason)
                met = labels.meet(read, inner, x.fixed or self.reason)
                self._note(weight, x if place % 2 == 0 else _hidden(size), rows, met)

    def _note(self, weight: Value, x: Value, rows: Tensor, columns: Tensor) -> None:
        """Note a sum over channels."""
        matrix = None if weight.real is None else weight.real[..., None]
        known = Contraction(rows, columns, x, x.ndim - 1, matrix, weight=weight.name, bare=False)
        self.read.append(known)


def recurrent(call: Call, labels: Labels, /) -> list[Value]:
    """Join the hidden units of all layers and directions, which have one size in common."""
    given = call.given
    if "params" not in given or "input" not in given:
        raise NoRule("a packed sequence")
    if given["train"] and given["dropout"]:
        raise NoRule("it draws random numbers")
    x, sides = given["input"], 1 + bool(given["bidirectional"])
    each = 4 if given["has_biases"] else 2
    params = given["params"]
    if len(params) != given["num_layers"] * sides * each:
        raise NoRule("a projection of the hidden units")
    last = x.ndim - 1
    columns = labels.along(x.layers, last, x.shape[last], x.fixed or call.name)
    beside = [labels.settle(layer, [0, 1], call.name) for layer in x.layers if last not in varying(layer)]
    cells = Cells(labels.along(params[1].layers, 1, params[1].shape[1], call.name), call.name)
    for start in range(0, len(params), each * sides):
        for side in range(sides):
            own = params[start + side * each : start + (side + 1) * each]
            cells.join_(own, x, columns, labels)
        columns, x = torch.cat([cells.units] * sides), _hidden(sides * len(cells.units))
    _started(call, cells.units, labels)
    made = [Value(shape, (labels.tidy(_last(cells.units, shape)),)) for shape in call.shapes[1:]]
    out = call.shape
    layers = (labels.tidy(_last(columns, out)), *(layer for layer in beside if varying(layer) <= {0, 1}))
    return [Value(out, layers, contractions=tuple(cells.read)), *made]


def cell(call: Call, labels: Labels, /) -> list[Value] | Value:
    """Join the gates of one step with the hidden units."""
    given = call.given
    x = given["input"]
    weights = [given[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if isinstance(given[name], Value)]
    last = x.ndim - 1
    cells = Cells(labels.along(weights[1].layers, 1, weights[1].shape[1], call.name), call.name)
    columns = labels.along(x.layers, last, x.shape[last], x.fixed or call.name)
    cells.join_(weights, x, columns, labels)
    _started(call, cells.units, labels)
    made = [
        Value(shape, (labels.tidy(_last(cells.units, shape)),), contractions=tuple(cells.read) * (not i))
        for i, shape in enumerate(call.shapes)
    ]
    return made if len(made) > 1 else made[0]


def _started(call: Call, units: Tensor, labels: Labels) -> None:
    """Join the units with those of the state that the layer starts from."""
    states = call.given["hx"]
    for state in states if isinstance(states, (list, tuple)) else [states]:
        line = labels.along(state.layers, state.ndim - 1, state.shape[-1], call.name)
        labels.meet(units, line, state.fixed or call.name)


def _hidden(size: int) -> Value:
    """Return what stands for hidden units while they are read: never known, always live."""
    return Value((1, size), (), torch.ones(1, 1, dtype=torch.bool))


def _last(line: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return labels laid along the last dimension."""
    return line.reshape((1,) * (len(shape) - 1) + (-1,))
