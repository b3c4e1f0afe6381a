"""What flows through a model's graph while its channels are sought: labels instead of numbers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tonsor.shrink.labels import Labels

Rule: TypeAlias = Callable[["Call", Labels], "Value | list[Value]"]


class NoRule(Exception):  # noqa: N818 - said by a rule of a case it does not know; never reaches users
    """Say that a case has no rule; the labels are frozen then.

    Example:
        >>> raise NoRule("two tensors that depend on the input are multiplied")
        Traceback (most recent call last):
        tonsor.shrink.value.NoRule: two tensors that depend on the input are multiplied
    """


@dataclass(frozen=True)
class Value:
    """Stand in for one tensor of the model.

    Args:
        shape: The tensor's own shape.
        layers: Labels of its elements. One layer for each way an element can go: a weight has one for
            its rows and one for its columns, an activation mostly one for its channels.
        live: Boolean, can be broadcast to the shape: may the element change with the model's input?
        fixed: Why elements without a label must stay, as in "model input".
        constant: True if it depends on nothing but parameters, buffers and numbers.
        real: The tensor itself, where it was computed.
        name: The name of the parameter or buffer that it is.
        contractions: What was read to make it, where channels were summed.

    Example:
        >>> Value((2, 3), live=torch.ones(1, 1, dtype=torch.bool)).ndim
        2
    """

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    live: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.bool))
    fixed: str = ""
    constant: bool = False
    real: Tensor | None = None
    name: str = ""
    contractions: "tuple[Contraction, ...]" = ()

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def whole(self, compact: Tensor) -> Tensor:
        """Return one of its compact tensors at full size."""
        return compact.expand(self.shape)


@dataclass(frozen=True)
class Contraction:
    """Say which labels one operation reads and which it makes.

    Args:
        rows: The label of each channel it makes, 0 where it has none.
        columns: The label of each channel it reads.
        x: What it reads.
        dim: The dimension of `x` that holds the channels.
        matrix: The weight as (rows, columns of a group, positions), where it was computed.
        groups: In how many separate groups the columns are read.
        bare: The sum is the same at every position: nothing is padded, so a constant can be folded.
        weight: The weight's own name, empty if it is computed.
        bias: The bias, if there is one.

    Example:
        >>> rows, columns = torch.tensor([3]), torch.tensor([1, 2])
        >>> x = Value((1, 2))
        >>> Contraction(rows, columns, x, 1, torch.ones(1, 2, 1)).full().shape
        torch.Size([1, 2, 1])
    """

    rows: Tensor
    columns: Tensor
    x: Value
    dim: int
    matrix: Tensor | None
    groups: int = 1
    bare: bool = True
    weight: str = ""
    bias: Value | None = None

    def full(self) -> Tensor:
        """Return the weight as (rows, columns, positions), zeros between different groups."""
        matrix = self.matrix
        if matrix is None:
            raise TypeError("the weight was not computed")
        if self.groups == 1:
            return matrix
        rows, columns, positions = matrix.shape
        full = matrix.new_zeros(self.groups, rows // self.groups, self.groups, columns, positions)
        blocks = matrix.reshape(self.groups, -1, columns, positions)
        for group in range(self.groups):
            full[group, :, group] = blocks[group]
        return full.reshape(rows, self.groups * columns, positions)


@dataclass(frozen=True)
class Call:
    """Say what an operation of the graph was given, by the names of its schema.

    Args:
        name: The operation and the module it stands in, as in "aten.linear in head".
        op: The operation.
        given: Its arguments by name, a `Value` for each tensor; defaults are filled in.
        shapes: The shape of each tensor it returns.

    Example:
        >>> relu = torch.ops.aten.relu.default
        >>> Call("aten.relu", relu, {"self": Value((2,))}, [(2,)]).values
        [Value(shape=(2,), ...)]
    """

    name: str
    op: Any
    given: dict[str, Any]
    shapes: list[tuple[int, ...]]

    @property
    def values(self) -> list[Value]:
        """Every tensor it was given, in order."""
        return list(_values(self.given.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor it returns."""
        return self.shapes[0]

    def value(self, name: str) -> Value | None:
        """Return the tensor given under a name, if one was."""
        found = self.given.get(name)
        return found if isinstance(found, Value) else None

    def first(self) -> Value:
        """Return the first tensor."""
        return self.values[0]

    def run(self, /, **changed: Any) -> Any:
        """Carry the operation out with some arguments changed."""
        return execute(self.op, self.given | changed)


def execute(op: Any, given: dict[str, Any]) -> Any:
    """Call an operation with arguments by name; those its schema wants by position are given so."""
    positional = [given[a.name] for a in op._schema.arguments if not a.kwarg_only]
    return op(*positional, **{a.name: given[a.name] for a in op._schema.arguments if a.kwarg_only})


def dims_of(given: int | Iterable[int] | None, ndim: int) -> list[int]:
    """Return dimensions counted from 0; none given means all."""
    if given is None:
        return list(range(ndim))
    dims = [given] if isinstance(given, int) else list(given)
    return [dim % ndim for dim in dims] if ndim and dims else list(range(ndim))


def _values(items: Iterable[Any]) -> Iterable[Value]:
    """Yield the values among arguments, also those inside lists."""
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _values(item)
