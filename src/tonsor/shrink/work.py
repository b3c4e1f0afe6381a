"""How much a model works: the multiplications of each weight, counted on its graph."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from tonsor.shrink.factors import FACTORS, RECURRENT, shape_of
from tonsor.shrink.interpret import BLOCKS
from tonsor.shrink.node import bind, key
from tonsor.shrink.trace import Trace

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Term:
    """Hold the multiplications of one operation.

    Args:
        weight: The weight that is multiplied; empty where two computed tensors are.
        uses: How often each of its elements is; without a weight, how many multiplications there are.
        made: The weights that made other channels of what it is multiplied with, for each of which it is
            repeated; without a weight, those of the second factor.

    Example:
        >>> Term("w", 3).macs({"w": 8}), Term("", 5).macs({})
        (24, 5)
    """

    weight: str
    uses: int
    made: frozenset[str] = NOTHING

    def macs(self, elements: Mapping[str, int]) -> int:
        """Return the multiplications where weights have so many elements."""
        return self.uses * (elements[self.weight] if self.weight else 1)


@dataclass(frozen=True)
class Work:
    """Say what one call of a model multiplies, and which weights write to what.

    Args:
        terms: The multiplications, operation by operation.
        added: Weights whose outputs are added to other computed values: they write to a residual stream.
        attended: Weights whose outputs are multiplied with computed values: queries, keys and values.

    Example:
        >>> Work((Term("w", 3), Term("w", 1))).uses
        {'w': 4}
    """

    terms: tuple[Term, ...] = ()
    added: frozenset[str] = NOTHING
    attended: frozenset[str] = NOTHING

    @property
    def uses(self) -> dict[str, int]:
        """How often each element of a weight is multiplied in one call."""
        found: dict[str, int] = {}
        for term in self.terms:
            if term.weight:
                found[term.weight] = found.get(term.weight, 0) + term.uses
        return found


@dataclass(frozen=True)
class Flow:
    """Say of one tensor of the graph which weights wrote its channels, or which weight it is.

    Where a weight mixes tokens, the channels lie along another dimension: what made them is beside.
    """

    made: frozenset[str] = NOTHING
    beside: frozenset[str] = NOTHING
    weight: str = ""
    constant: bool = False


def work_of(trace: Trace) -> Work:
    """Count the multiplications of one call on the example, without running anything.

    Counted are linear layers, convolutions, recurrent cells, attention and matrix products, with the whole
    batch of the example.

    Example:
        >>> import torch
        >>> from tonsor.shrink.trace import trace_of
        >>> work = work_of(trace_of(torch.nn.Linear(4, 2), (torch.ones(3, 4),), {}))
        >>> work.terms
        (Term(weight='weight', uses=3, made=frozenset()),)
    """
    counter = _Counter(trace)
    known = {node: counter.source(node) for node in trace.graph.nodes if node.op == "placeholder"}
    counter.walk(trace.graph, known)
    return Work(tuple(counter.terms), frozenset(counter.added), frozenset(counter.attended))


class _Counter:
    """Go through a graph and add up."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.terms: list[Term] = []
        self.added: set[str] = set()
        self.attended: set[str] = set()

    def source(self, node: Any) -> Flow:
        """Return what a placeholder is."""
        name = self.trace.sources.get(node.name, "")
        return Flow(weight=name, constant=bool(name) or node.name in self.trace.constants)

    def walk(self, graph: Any, known: dict[Any, Flow]) -> Flow:
        """Go through one graph; return what its outputs are made of."""
        for node in graph.nodes:
            flows = [known[n] for n in node.all_input_nodes if n in known]
            if node.op == "output":
                return _joined(flows)
            if node.op == "call_function":
                known[node] = self._call(node, flows, known)
        return Flow()

    def _call(self, node: Any, flows: list[Flow], known: dict[Any, Flow]) -> Flow:
        """Return what one operation makes, and count it."""
        if str(node.target) in BLOCKS:
            place = BLOCKS[str(node.target)]
            graph = getattr(node.graph.owning_module, node.args[place].target).graph
            inner = [n for n in graph.nodes if n.op == "placeholder"]
            given = node.args[place + 1 :]
            return self.walk(graph, {n: known[arg] for n, arg in zip(inner, given, strict=True)})
        if not hasattr(node.target, "_schema"):
            return _joined(flows)
        name = key(node.target, overload=False)
        if flows and all(flow.constant for flow in flows):
            return _largest(flows, self.trace)
        live = [flow for flow in flows if not flow.constant]
        if name == "aten.add" and len(live) == 2 and live[0].made and live[1].made:
            apart = live[0].made != live[1].made  # else it is a function of one tensor, as GELU or a rotation
            self.added |= live[0].made | live[1].made if apart else NOTHING
        factors = FACTORS.get(name)
        if factors is None:
            table = next((flow for flow in flows if flow.weight), Flow())
            return Flow(frozenset({table.weight})) if name == "aten.embedding" else _joined(live)
        given = bind(node.target, node.args, node.kwargs)
        made = [self._multiply(*product, known, shape_of(node)) for product in factors(node, given)]
        return made[-1] if name not in RECURRENT else _joined(made)

    def _multiply(
        self, macs: int, left: Any, right: Any, known: Mapping[Any, Flow], shape: tuple[int, ...]
    ) -> Flow:
        """Count one product and return what made its channels."""
        a, b = known.get(left, Flow()), known.get(right, Flow())
        weight = b.weight if b.constant else a.weight if a.constant else ""
        if weight:
            other = a if b.constant else b
            beside = frozenset(w for w in other.made | other.beside if self._lies_in(w, weight, shape))
            uses = macs // max(1, prod(self.trace.shapes[weight]))
            self.terms.append(Term(weight, uses, beside))
            return Flow(frozenset({weight}), beside)
        self.terms.append(Term("", macs, b.made))
        self.attended |= a.made | b.made
        return Flow() if a.made else Flow(b.made)  # scores have no channels; what they weigh has the values'

    def _lies_in(self, made: str, weight: str, shape: tuple[int, ...]) -> bool:
        """Say whether a result has a dimension as long as the channels that a weight made, beside its own.

        A convolution always reads the channels.
        """
        if len(self.trace.shapes[weight]) > 2:
            return False
        positions = list(shape)
        for size in self.trace.shapes[weight]:
            if size in positions:
                positions.remove(size)
                break
        return bool(set(self.trace.shapes[made][:2]) & set(positions) - {1})


def _joined(flows: Iterable[Flow]) -> Flow:
    """Return what is made of several tensors together."""
    flows = list(flows)
    return Flow(NOTHING.union(*(f.made for f in flows)), NOTHING.union(*(f.beside for f in flows)))


def _largest(flows: list[Flow], trace: Trace) -> Flow:
    """Return a computed weight as the largest parameter it is computed from."""
    names = [flow.weight for flow in flows if flow.weight]
    return Flow(weight=max(names, key=lambda name: prod(trace.shapes[name]), default=""), constant=True)
