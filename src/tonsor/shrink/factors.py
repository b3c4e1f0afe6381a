"""How many multiplications each operation does, and of what with what."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from tonsor.shrink.node import shapes

Factors = list[tuple[int, Any, Any]]  # multiplications, and the two nodes that are multiplied


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of a node's first tensor.

    Example:
        >>> import torch
        >>> from tonsor.shrink.trace import trace_of
        >>> graph = trace_of(torch.nn.Linear(4, 2), (torch.ones(3, 4),), {}).graph
        >>> shape_of(next(node for node in graph.nodes if node.op == "call_function"))
        (3, 2)
    """
    found = shapes(node.meta.get("val"))
    return found[0] if found else ()


def _matrix(left: str, right: str) -> Callable[[Any, Mapping[str, Any]], Factors]:
    """Return how a product of two matrices is counted, whose arguments have these names."""

    def factors(node: Any, given: Mapping[str, Any]) -> Factors:
        return [(prod(shape_of(node)) * shape_of(given[left])[-1], given[left], given[right])]

    return factors


def _conv(node: Any, given: Mapping[str, Any]) -> Factors:
    """Count a convolution: each output reads one filter."""
    return [(prod(shape_of(node)) * prod(shape_of(given["weight"])[1:]), given["input"], given["weight"])]


def _transposed(node: Any, given: Mapping[str, Any]) -> Factors:
    """Count a transposed convolution: each input is written through one filter."""
    return [
        (
            prod(shape_of(given["input"])) * prod(shape_of(given["weight"])[1:]),
            given["input"],
            given["weight"],
        )
    ]


def _attention(node: Any, given: Mapping[str, Any]) -> Factors:
    """Count scores, then the values they weigh."""
    query, keys, values = given["query"], given["key"], given["value"]
    length = shape_of(keys)[-2]
    return [(prod(shape_of(query)) * length, query, keys), (prod(shape_of(node)) * length, None, values)]


def _einsum(node: Any, given: Mapping[str, Any]) -> Factors:
    """Count an einsum of two tensors: the product of all sizes it names."""
    terms, nodes = given["equation"].replace(" ", "").split("->")[0].split(","), given["tensors"]
    if len(nodes) != 2 or "." in given["equation"]:
        return [(0, None, nodes[-1])]
    sizes: dict[str, int] = {}
    for term, own in zip(terms, nodes, strict=True):
        sizes |= dict(zip(term, shape_of(own), strict=True))
    return [(prod(sizes.values()), nodes[0], nodes[1])]


def _recurrent(node: Any, given: Mapping[str, Any]) -> Factors:
    """Count every matrix of a recurrent layer once a step."""
    x = shape_of(given["input"])
    return [(prod(x[:-1]) * prod(shape_of(p)), None, p) for p in given["params"] if len(shape_of(p)) == 2]


RECURRENT = {f"aten.{kind}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
FACTORS: dict[str, Callable[[Any, Mapping[str, Any]], Factors]] = {
    "aten.linear": _matrix("input", "weight"),
    "aten.matmul": _matrix("self", "other"),
    "aten.mm": _matrix("self", "mat2"),
    "aten.bmm": _matrix("self", "mat2"),
    "aten.addmm": _matrix("mat1", "mat2"),
    "aten.baddbmm": _matrix("batch1", "batch2"),
    "aten.einsum": _einsum,
    "aten.scaled_dot_product_attention": _attention,
    **{f"aten.conv{n}d": _conv for n in (1, 2, 3)},
    **{f"aten.conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    **dict.fromkeys(RECURRENT, _recurrent),
}
