"""Write the sizes that are numbers in a graph anew, after channels are gone."""

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tonsor.shrink.kept import Kept, nodes_of
from tonsor.shrink.node import key, place
from tonsor.shrink.value import Value

SIZED = ("size", "shape", "sizes")  # arguments that are shapes of the result
SPLITS = ("aten.split", "aten.split_with_sizes", "aten.chunk")


@dataclass(frozen=True)
class Change:
    """Say that a number in the code of a module is a size that changed.

    Args:
        paths: The modules the code stands in, the innermost first.
        old: The number.
        new: What it must be now.

    Example:
        >>> Change(("block.attention", "block"), 12, 6)
        Change(paths=('block.attention', 'block'), old=12, new=6)
    """

    paths: tuple[str, ...]
    old: int
    new: int


class Rewriter:
    """Give each node of a copied graph the sizes that are left.

    Args:
        kept: The sizes, by the nodes of the graph that the labels ran on.
        twins: Of each node to be changed the node that the labels ran on.

    Example:
        >>> Rewriter(Kept({}, None, torch.zeros(0)), {}).changes
        []
    """

    def __init__(self, kept: Kept, twins: dict[Any, Any]) -> None:
        self.kept, self.twins = kept, twins
        self.changes: list[Change] = []

    def rewrite_(self, node: Any) -> None:
        """Change the numbers of one node, in place."""
        old = self._values(node)
        if not old or not isinstance(node.target, torch._ops.OpOverload):
            return
        new = [self.kept.shape(value) for value in old]
        name = key(node.target, overload=False)
        if name in SPLITS:
            self._split_(node, old, new)
        elif name in ("aten.slice", "aten.narrow"):
            self._part_(node, old[0], name)
        elif name == "aten.gather":
            self._index_(node, new[0])
        elif name.startswith("aten.conv"):
            self._groups_(node)
        elif name == "aten.scaled_dot_product_attention":
            self._scale_(node)
        self._shapes_(node, old[0].shape, new[0])

    def value(self, node: Any) -> Any:
        """Return what a node of the copied graph gives, with labels."""
        return self.kept.values.get(self.twins.get(node))

    def _values(self, node: Any) -> list[Value]:
        """Return all tensors that a node gives."""
        found = self.value(node)
        return [v for v in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(v, Value)]

    def _shapes_(self, node: Any, old: tuple[int, ...], new: tuple[int, ...]) -> None:
        """Change the arguments that are the result's shape, or its last dimensions."""
        arguments = {a.name: i for i, a in enumerate(node.target._schema.arguments)}
        first = 0
        if "unflatten" in str(node.target):
            first = int(node.args[1]) % (len(old) - len(node.args[2]) + 1)
        for name in SIZED:
            if name in arguments:
                self._scaled_(node, name, old[first:], new[first:])
        if "normalized_shape" in arguments:
            count = len(self._get(node, "normalized_shape"))
            self._scaled_(node, "normalized_shape", old[-count:], new[-count:])
        if "num_groups" in arguments:
            groups = self._get(node, "num_groups")
            self._set_(node, "num_groups", max(1, groups * new[1] // old[1]))

    def _scaled_(self, node: Any, name: str, old: Sequence[int], new: Sequence[int]) -> None:
        """Change a list of sizes; what is computed from the input's own size is scaled."""
        given = self._get(node, name)
        if not isinstance(given, (list, tuple)):
            return
        fresh = []
        for place_, size in enumerate(given):
            before, after = old[place_], new[place_]
            if before == after or (isinstance(size, int) and size < 0):
                fresh.append(size)
            elif isinstance(size, int):
                self._note(node, size, after)
                fresh.append(after)
            else:
                with node.graph.inserting_before(node):
                    more = node.graph.call_function(operator.mul, (size, after))
                    fresh.append(node.graph.call_function(operator.floordiv, (more, before)))
        self._set_(node, name, fresh)

    def _split_(self, node: Any, old: list[Value], new: list[tuple[int, ...]]) -> None:
        """Turn a split whose parts change into one with their sizes."""
        dim = self._get(node, "dim") % old[0].ndim
        before, after = [v.shape[dim] for v in old], [shape[dim] for shape in new]
        if before == after:
            return
        for a, b in zip(before, after, strict=True):
            self._note(node, a, b)
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], after, dim), {}

    def _part_(self, node: Any, old: Value, name: str) -> None:
        """Move the two ends of a slice."""
        whole = self.value(node.args[0])
        dim = self._get(node, "dim") % old.ndim
        stays = self.kept.line(whole, dim)
        if bool(stays.all()):
            return
        start = self._get(node, "start") or 0
        start = start + len(stays) if start < 0 else start
        left, taken = int(stays[:start].sum()), int(self.kept.line(old, dim).sum())
        end = ("length", taken) if name == "aten.narrow" else ("end", left + taken)
        for argument, number in (("start", left), end):
            before = self._get(node, argument)
            if isinstance(before, int) and before != number and 0 < before <= len(stays):
                self._note(node, before, number)
            self._set_(node, argument, number)

    def _index_(self, node: Any, new: tuple[int, ...]) -> None:
        """Cut an index that was widened to channels to those that are left."""
        index = node.args[2]
        had = self.kept.shape(self.value(index))
        for dim in (dim for dim in range(len(new)) if had[dim] > new[dim]):
            with node.graph.inserting_before(node):
                args = (index, dim, 0, new[dim])
                index = node.graph.call_function(torch.ops.aten.slice.Tensor, args)
        node.args = (*node.args[:2], index, *node.args[3:])

    def _groups_(self, node: Any) -> None:
        """Give a depthwise convolution as many groups as channels are left."""
        x, weight = (self.value(arg) for arg in node.args[:2])
        dim = x.ndim - weight.ndim + 1
        left = int(self.kept.line(x, dim).sum())
        if self._get(node, "groups") == x.shape[dim] > 1 and left != x.shape[dim]:
            self._set_(node, "groups", left)

    def _scale_(self, node: Any) -> None:
        """Keep the scale of attention that its heads had before they lost channels."""
        queries = self.value(node.args[0])
        before, after = queries.shape[-1], self.kept.shape(queries)[-1]
        if before != after and self._get(node, "scale") is None:
            self._set_(node, "scale", before**-0.5)

    def _note(self, node: Any, old: int, new: int) -> None:
        """Remember a number that changed."""
        stack = (node.meta.get("nn_module_stack") or {}).values()
        paths = tuple(dict.fromkeys(str(path) for path, _ in reversed(list(stack))))
        self.changes.append(Change(paths or (place(node).removeprefix(" in "),), old, new))

    def _get(self, node: Any, name: str) -> Any:
        """Return an argument by its name."""
        for position, argument in enumerate(node.target._schema.arguments):
            if argument.name == name:
                default = argument.default_value if argument.has_default_value() else None
                given = node.kwargs.get(name, default)
                return node.args[position] if position < len(node.args) else given
        return None

    def _set_(self, node: Any, name: str, value: Any) -> None:
        """Set an argument by its name."""
        names = [argument.name for argument in node.target._schema.arguments]
        position = names.index(name)
        if position < len(node.args):
            node.args = (*node.args[:position], value, *node.args[position + 1 :])
        else:
            node.kwargs = {**node.kwargs, name: value}


def rewritten(graph: Any, kept: Kept, like: Any) -> tuple[torch.fx.GraphModule, list[Change]] | None:
    """Return a copy of a graph with the sizes that are left, and what was changed.

    Args:
        graph: The graph to copy: the one the labels ran on, or one of the same operations whose batch
            size is no number.
        kept: The sizes that are left.
        like: The graph that the labels ran on.

    Returns:
        The module and the numbers that changed; nothing if the two graphs differ.

    Example:
        >>> import torch.nn as nn
        >>> from tonsor.shrink import channel_groups
        >>> from tonsor.shrink.kept import kept_of
        >>> groups = channel_groups(nn.Linear(2, 3), torch.ones(1, 2))
        >>> kept = kept_of(groups, torch.zeros(len(groups.roots), dtype=torch.bool))
        >>> rewritten(groups.trace.graph, kept, groups.trace.graph)[1]
        []
    """
    module = copy.deepcopy(graph.owning_module)
    own, other = (list(filter(_counts, nodes_of(g))) for g in (module.graph, like))
    if [_kind(node) for node in own] != [_kind(node) for node in other]:
        return None
    rewriter = Rewriter(kept, dict(zip(own, other, strict=True)))
    for node in own:
        if node.op == "call_function":
            rewriter.rewrite_(node)
    module.recompile()
    return module, rewriter.changes


def _counts(node: Any) -> bool:
    """Say whether a node does something beyond counting sizes."""
    if node.op != "call_function":
        return node.op == "placeholder" and not isinstance(node.meta.get("val"), torch.SymInt)
    return node.target is operator.getitem or (
        "sym_" not in str(node.target) and hasattr(node.target, "_schema")
    )


def _kind(node: Any) -> str:
    """Return what a node does."""
    return str(node.target) if node.op == "call_function" else node.op
