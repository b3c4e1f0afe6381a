"""Rules of sums over channels that no weight takes part in: what adds nothing can go."""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from tonsor.shrink.elementwise import meet_values
from tonsor.shrink.labels import CONSUMER, Labels, varying
from tonsor.shrink.mixing import mix
from tonsor.shrink.product import Factor, product, summed
from tonsor.shrink.value import Call, Contraction, NoRule, Value, dims_of

LETTERS = "abcdefghijkl"


def total(call: Call, labels: Labels, /) -> Value:
    """Sum along dimensions: a channel that is zero adds nothing, so it can go. The same holds for norms."""
    value = call.first()
    power = call.given.get("ord", call.given.get("p", 2))
    matrix = "linalg_norm" in call.name and (call.given["dim"] is None or len(call.given["dim"]) > 1)
    if (
        matrix
        or isinstance(power, str)
        or value.ndim > len(LETTERS)
        or not 0 < (2 if power is None else power) <= inf
    ):
        raise NoRule("zeros count in it")
    dims = dims_of(call.given.get("dim"), value.ndim)
    layers = [labels.tidy(layer) for layer in value.layers]
    over = [layer for layer in layers if len(varying(layer)) == 1 and varying(layer) <= set(dims)]
    rest = tuple(layer for layer in layers if not any(layer is other for other in over))
    mixed = mix(replace(value, layers=rest), dims, call.shape, labels, call.name)
    factor = Factor(value, LETTERS[: value.ndim])
    read = []
    for layer in over:
        dim = min(varying(layer))
        if value.constant:
            labels.mark(layer, CONSUMER)
        line = labels.along([layer], dim, value.shape[dim], call.name)
        read += [summed([factor], factor.names[dim], line)] if value.real is not None else []
    return replace(mixed, contractions=tuple(read))


def tensordot(call: Call, labels: Labels, /) -> Value:
    """Multiply two tensors and sum over the dimensions that are paired."""
    x, y = call.values
    paired = dict(
        zip(dims_of(call.given["dims_other"], y.ndim), dims_of(call.given["dims_self"], x.ndim), strict=True)
    )
    if not call.given["dims_self"] or x.ndim + y.ndim > 2 * len(LETTERS):
        raise NoRule("nothing is summed")
    left = LETTERS[: x.ndim]
    right = "".join(left[paired[dim]] if dim in paired else LETTERS[dim].upper() for dim in range(y.ndim))
    out = "".join(name for name in left + right if not (name in left and name in right))
    return product(call, [Factor(x, left), Factor(y, right)], out, labels)


def outer(call: Call, labels: Labels, /) -> Value:
    """Multiply each element of one vector with each of another."""
    x, y = call.values
    return product(call, [Factor(x, "i"), Factor(y, "j")], "ij", labels)


def inner(call: Call, labels: Labels, /) -> Value:
    """Multiply and sum over the last dimensions."""
    x, y = call.values
    if not x.ndim or not y.ndim:
        raise NoRule("numbers are multiplied")
    left, right = LETTERS[: x.ndim - 1], LETTERS[: y.ndim - 1].upper()
    return product(call, [Factor(x, left + "z"), Factor(y, right + "z")], left + right, labels)


def distances(call: Call, labels: Labels, /) -> Value:
    """Compare each row of one tensor with each of another: a channel that is zero in both can go."""
    x, y = call.values
    batch = LETTERS[: len(call.shape) - 2]
    left = batch[len(batch) - x.ndim + 2 :] + "pz"
    right = batch[len(batch) - y.ndim + 2 :] + "qz"
    made = product(call, [Factor(x, left), Factor(y, right)], batch + "pq", labels)
    return replace(made, live=_live(call, x, y), contractions=_both(x, y, made))


def pairs(call: Call, labels: Labels, /) -> Value:
    """Multiply element by element and sum along one dimension; a cosine reads the lengths of both too."""
    x, y = call.values
    if x.ndim != y.ndim:
        raise NoRule("one tensor is widened")
    dim = call.given["dim"] % x.ndim
    names = LETTERS[: x.ndim]
    made = product(call, [Factor(x, names), Factor(y, names)], names[:dim] + names[dim + 1 :], labels)
    if "eps" not in call.given:
        return made
    return replace(made, live=_live(call, x, y), contractions=_both(x, y, made, dim))


def bilinear(call: Call, labels: Labels, /) -> Value:
    """Join the two inputs with the columns of a weight; its rows are the new channels."""
    x, y, weight, bias = (call.value(name) for name in ("input1", "input2", "weight", "bias"))
    if x is None or y is None or weight is None:
        raise NoRule("an input is missing")
    batch = LETTERS[: x.ndim - 1]
    three = [Factor(x, batch + "y"), Factor(y, batch + "z"), Factor(weight, "xyz")]
    made = product(call, three, batch + "x", labels)
    if bias is not None:
        made = replace(
            meet_values([made, bias], call.shape, labels, call.name), contractions=made.contractions
        )
    return replace(made, live=_live(call, x, y))


def _both(x: Value, y: Value, made: Value, dim: int = -1) -> tuple[Contraction, ...]:
    """Return that the channels of both are read, each on its own."""
    nobody = torch.zeros(1, dtype=torch.int64)
    line = made.contractions[0].columns if made.contractions else None
    if line is None:
        return ()
    ones = torch.ones(1, len(line), 1)
    return tuple(Contraction(nobody, line, v, dim % v.ndim, ones, bare=False) for v in (x, y))


def _live(call: Call, x: Value, y: Value) -> Tensor:
    """Return that all can change if anything can."""
    live: Tensor = (x.live.any() | y.live.any()).reshape((1,) * len(call.shape))
    return live
