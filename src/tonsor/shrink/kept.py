"""What is left of each value of a graph when some labels are gone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.interpret import Interpreter
from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.value import Value


@dataclass(frozen=True)
class Kept:
    """Tell the sizes that a graph's values have once labels are gone.

    Args:
        values: What each node of the graph gives, with its labels.
        labels: The labels, all joined.
        gone: Of each root: it goes.

    Example:
        >>> labels = Labels()
        >>> row = labels.new(3)
        >>> kept = Kept({}, labels, torch.tensor([False, False, True, False]))
        >>> kept.shape(Value((2, 3), (row[None],)))
        (2, 2)
    """

    values: dict[Any, Any] = field(repr=False)
    labels: Labels = field(repr=False)
    gone: Tensor = field(repr=False)

    def line(self, value: Value, dim: int) -> Tensor:
        """Return which places along a dimension stay."""
        stays = torch.ones(value.shape[dim], dtype=torch.bool)
        for layer in map(self.labels.tidy, value.layers):
            if dim in varying(layer):
                here = (~self.gone[layer]).movedim(dim, 0)
                stays &= here.reshape(len(stays), -1).all(1)
        return stays

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape that is left."""
        return tuple(int(self.line(value, dim).sum()) for dim in range(value.ndim))


def kept_of(groups: ChannelGroups, gone: Tensor) -> Kept:
    """Run the graph on labels once more and note what each node gives.

    Example:
        >>> from torch import nn
        >>> from tonsor.shrink import channel_groups
        >>> groups = channel_groups(nn.Linear(2, 3), torch.ones(1, 2))
        >>> len(kept_of(groups, torch.zeros(len(groups.roots), dtype=torch.bool)).values)
        4
    """
    values: dict[Any, Any] = {}
    run = Interpreter(groups.trace, unruled=set(groups.unruled), seen=values)
    run.run()
    run.labels.flatten()
    return Kept(values, run.labels, gone)


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs inside it, in order.

    Example:
        >>> graph = torch.fx.symbolic_trace(torch.nn.ReLU()).graph
        >>> [node.op for node in nodes_of(graph)]
        ['placeholder', 'call_function', 'output']
    """
    for node in graph.nodes:
        inner = getattr(graph.owning_module, str(node.target), None) if node.op == "get_attr" else None
        if isinstance(inner, torch.fx.GraphModule):
            yield from nodes_of(inner.graph)
        yield node
