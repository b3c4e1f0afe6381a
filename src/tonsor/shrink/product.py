"""Rules of products of two tensors: what is summed is joined, rows and columns go on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from string import ascii_letters

import torch
from torch import Tensor

from tonsor.shrink.elementwise import meet_values
from tonsor.shrink.labels import CONSUMER, PRODUCER, Labels, varying
from tonsor.shrink.value import Call, Contraction, NoRule, Value

MOST = 2**27  # products of numbers up to which it is worked out where a result can change


@dataclass(frozen=True)
class Factor:
    """Hold one of two tensors that are multiplied, with a letter for each of its dimensions.

    Example:
        >>> Factor(Value((2, 3)), "ij").size("j")
        3
    """

    value: Value
    names: str

    def size(self, name: str) -> int:
        """Return the size of a dimension."""
        return self.value.shape[self.names.index(name)]

    def dims(self, names: str) -> set[int]:
        """Return the dimensions with these letters."""
        return {dim for dim, name in enumerate(self.names) if name in names}


def product(call: Call, factors: Sequence[Factor], out: str, labels: Labels) -> Value:
    """Multiply two tensors and sum over the letters that the result has not.

    A layer that varies along what is summed and along other dimensions is joined along the former: heads
    are removed whole. One that varies along the former alone is joined with the other tensor's; it can go
    where one of the two is zero. Where what is inside heads may go, the heads are joined first.
    """
    if not any(factor.value.constant for factor in factors):
        factors = [_inside(factor, factors, out, labels, call.name) for factor in factors]
    over = "".join(dict.fromkeys(n for f in factors for n in f.names if n not in out))
    lines: dict[str, list[Tensor]] = {name: [] for name in over}
    rest = []
    for factor in factors:
        layers, inner = _parted(factor, over, labels, call.name)
        for name in over:
            lines[name].append(_line(factor, inner, name, labels, call.name))
        rest.append(_laid_out(factor, layers, out))
    met = meet_values(rest, call.shape, labels, call.name)
    read = []
    for name in over:
        line = _joined([line for line in lines[name] if len(line)], factors, labels, call.name)
        own = [factor for factor in factors if name in factor.names]
        read += [summed(own, name, line)] if line is not None and _known(factors) else []
    return Value(call.shape, met.layers, _live(factors, out), contractions=tuple(read))


def matmul_like(call: Call, x: Value, y: Value, labels: Labels) -> Value:
    """Multiply the last two dimensions as matrices; those before are aligned from the right."""
    if min(x.ndim, y.ndim) < 1 or x.ndim + y.ndim > 20:
        raise NoRule("numbers are multiplied")
    batch = "abcdefgh"[: max(x.ndim, y.ndim, 2) - 2]
    rows, columns = "r" * (x.ndim > 1), "s" * (y.ndim > 1)
    left = Factor(x, batch[len(batch) - max(x.ndim - 2, 0) :] + rows + "k")
    other = Factor(y, batch[len(batch) - max(y.ndim - 2, 0) :] + "k" + columns)
    return product(call, [left, other], batch + rows + columns, labels)


def einsum(call: Call, labels: Labels, /) -> Value:
    """Read the letters of the tensors; what the result has not is summed."""
    values = call.values
    operands, out = _letters(call.given["equation"], [value.ndim for value in values])
    if any(len(set(names)) < len(names) for names in operands):
        raise NoRule("a diagonal")
    factors = [Factor(value, names) for value, names in zip(values, operands, strict=True)]
    return product(call, factors, out, labels)


def within(layer: Tensor, heads: set[int], labels: Labels, name: str) -> Tensor:
    """Join the same places of all heads, where what is inside heads may go; `heads` are dimensions."""
    layer = labels.tidy(layer)
    inside = labels.freedom.head_dim and varying(layer) - heads
    return labels.settle(layer, heads, name) if inside else layer


def _inside(factor: Factor, factors: Sequence[Factor], out: str, labels: Labels, name: str) -> Factor:
    """Return a factor whose heads, which all factors and the result have, are joined where that is asked.

    Where heads of the other one are left, this operation is then the reason why they stay.
    """
    if not labels.freedom.head_dim:
        return factor
    heads = {letter for letter in out if all(letter in other.names for other in factors)}
    dims = factor.dims("".join(heads))
    layers = tuple(within(layer, dims, labels, name) for layer in factor.value.layers)
    fixed = "" if layers else factor.value.fixed
    return Factor(replace(factor.value, layers=layers, fixed=fixed), factor.names)


def _parted(
    factor: Factor, summed: str, labels: Labels, name: str
) -> tuple[list[Tensor], list[tuple[str, Tensor]]]:
    """Return the layers that go on, and those that vary along one summed dimension alone."""
    dims = factor.dims(summed)
    layers, inner = [], []
    for layer in map(labels.tidy, factor.value.layers):
        own = varying(layer)
        if own and own <= dims and len(own) == 1:
            inner.append((factor.names[min(own)], layer))
            _mark(factor, layer, CONSUMER, labels)
            continue
        _mark(factor, layer, PRODUCER, labels)
        settled = labels.settle(layer, dims, name)
        if not varying(settled) & dims:
            layers.append(settled)
    return layers, inner


def _mark(factor: Factor, layer: Tensor, role: int, labels: Labels) -> None:
    """Note what a weight does."""
    if factor.value.constant:
        labels.mark(layer, role)


def _line(factor: Factor, inner: list[tuple[str, Tensor]], name: str, labels: Labels, reason: str) -> Tensor:
    """Return the labels along a summed dimension, 0 where there are none."""
    if name not in factor.names:
        return torch.zeros(0, dtype=torch.int64)
    layers = [layer for own, layer in inner if own == name]
    return labels.along(layers, factor.names.index(name), factor.size(name), reason)


def _joined(lines: list[Tensor], factors: Sequence[Factor], labels: Labels, reason: str) -> Tensor | None:
    """Join what is summed; a label whose partner has none, or that has no partner, is frozen."""
    if any(len(line) != max(map(len, lines)) for line in lines):
        for line in lines:
            labels.freeze(line, reason)
        return None
    why = next((f.value.fixed for f in factors if f.value.fixed), reason)
    line = lines[0]
    for other in lines[1:]:
        line = labels.meet(line, other, why)
    return line if bool((line > 0).any()) else None


def _laid_out(factor: Factor, layers: list[Tensor], out: str) -> Value:
    """Return a factor without what is summed, its dimensions in the order of the result."""
    value = factor.value
    shape = tuple(factor.size(name) if name in factor.names else 1 for name in out)
    return Value(
        shape,
        tuple(_placed(layer, factor.names, out) for layer in layers),
        torch.zeros((1,) * len(out), dtype=torch.bool),
        value.fixed,
        value.constant,
    )


def _placed(tensor: Tensor, names: str, out: str) -> Tensor:
    """Put the dimensions of a compact tensor in the order of the result; what is summed has size 1."""
    kept = [dim for dim, name in enumerate(names) if name in out]
    tensor = tensor.reshape([tensor.shape[dim] for dim in kept])
    order = sorted(range(len(kept)), key=lambda i: out.index(names[kept[i]]))
    sizes = {names[kept[i]]: tensor.shape[i] for i in range(len(kept))}
    return tensor.permute(order).reshape([sizes.get(name, 1) for name in out])


def _known(factors: Sequence[Factor]) -> bool:
    """Say whether all factors were computed."""
    return all(factor.value.real is not None for factor in factors)


def summed(factors: Sequence[Factor], name: str, line: Tensor) -> Contraction:
    """Return what is read of the channels that are summed: nothing where either factor is zero."""
    zero = torch.stack([~_moving(factor, name) for factor in factors]).any(0)
    known = Value((1, len(line)), (), ~zero[None], real=(~zero)[None].float())
    nobody = torch.zeros(1, dtype=torch.int64)
    return Contraction(nobody, line, known, 1, torch.ones(1, len(line), 1), bare=False)


def _moving(factor: Factor, name: str) -> Tensor:
    """Return for each place along a dimension whether anything there is live or not zero."""
    value = factor.value
    dim = factor.names.index(name)
    lines = value.whole(value.live | nonzero(value)).movedim(dim, 0)
    return lines.reshape(lines.shape[0], -1).any(1)


def nonzero(value: Value) -> Tensor:
    """Return where a value may differ from zero."""
    one = torch.ones((1,) * value.ndim, dtype=torch.bool)
    return one if value.real is None else (value.real != 0).cpu()


def _live(factors: Sequence[Factor], out: str) -> Tensor:
    """Return where the product can change: where one factor can and the other is not zero."""
    anywhere = torch.stack([factor.value.live.any() for factor in factors]).any()
    sizes = {name: factor.size(name) for factor in factors for name in factor.names}
    if not _known(factors) or not anywhere or len(factors) != 2 or prod(sizes.values()) > MOST:
        return anywhere.reshape((1,) * len(out))
    equation = ",".join(factor.names for factor in factors) + "->" + out
    wholes = [factor.value.whole(factor.value.live).float() for factor in factors]
    there = [f.value.whole(f.value.live | nonzero(f.value)).float() for f in factors]
    counted = torch.einsum(equation, wholes[0], there[1]) + torch.einsum(equation, there[0], wholes[1])
    return counted > 0


def _letters(equation: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """Return the letters of each tensor and of the result, with an ellipsis spelled out."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    spare = [letter for letter in ascii_letters if letter not in equation]
    most = max(n - len(part.replace("...", "")) for n, part in zip(ndims, parts, strict=True))
    operands = []
    for n, part in zip(ndims, parts, strict=True):
        own = n - len(part.replace("...", ""))
        operands.append(part.replace("...", "".join(spare[most - own : most])))
    if not arrow:
        once = [c for c in sorted(set("".join(parts)) - {"."}) if "".join(parts).count(c) == 1]
        out = "..." * ("..." in left) + "".join(once)
    return operands, out.replace("...", "".join(spare[:most]))
