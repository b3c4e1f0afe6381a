"""Write an exported graph in fewer words, and refuse one whose sizes are not known."""

import sys
from typing import Any

import torch
from torch import Tensor

SPLITS = tuple(
    f"aten.{name}" for name in ("tensor_split", "unsafe_split", "unsafe_chunk", "hsplit", "vsplit", "dsplit")
)


def tidy_(graph: Any) -> None:
    """Take out of a graph what does nothing: results that nobody uses, slices that take everything.

    Splits of every spelling become the one that names the sizes.

    Example:
        >>> graph = torch.fx.symbolic_trace(torch.nn.ReLU()).graph
        >>> tidy_(graph); len(graph.nodes)
        3
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and str(node.target).startswith(SPLITS):
            _name_sizes_(node)
        if node.target is torch.ops.aten.slice.Tensor and node.args[2:] == (0, sys.maxsize):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def check_sizes(graph: Any, model: str) -> None:
    """Refuse a graph in which a size depends on the values of tensors.

    Raises:
        ValueError: If one does: says which operation gives it.

    Example:
        >>> check_sizes(torch.fx.symbolic_trace(torch.nn.ReLU()).graph, "ReLU")
    """
    from torch.utils._pytree import tree_leaves

    for node in graph.nodes:
        for leaf in tree_leaves(node.meta.get("val")):
            sizes = leaf.shape if isinstance(leaf, Tensor) else ()
            if any(isinstance(size, torch.SymInt) for size in sizes):
                raise ValueError(
                    f"shrink.channel_groups: {model}: the size of what {node.target} gives "
                    "depends on the values of tensors; its channels cannot be found. Make it free of that"
                )


def _name_sizes_(node: Any) -> None:
    """Write a split with the sizes of its parts; one whose sizes are no numbers is left as it is."""
    whole, parts = node.args[0].meta["val"], node.meta["val"]
    differ = [dim for dim in range(whole.ndim) if any(p.shape[dim] != whole.shape[dim] for p in parts)]
    sizes = [part.shape[differ[0]] for part in parts] if differ else []
    if sizes and all(isinstance(size, int) for size in sizes):
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], sizes, differ[0]), {}
