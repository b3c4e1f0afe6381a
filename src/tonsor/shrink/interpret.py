"""Run a model's graph on labels: the interpreter that the table of rules serves."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tonsor.shrink.labels import Labels
from tonsor.shrink.move import made
from tonsor.shrink.node import (
    bind,
    checked,
    completed,
    key,
    leaves,
    memory_of,
    named,
    place,
    real_of,
    returns_list,
    shapes,
    written,
)
from tonsor.shrink.rules import RULES
from tonsor.shrink.trace import MODEL_ERRORS, Trace
from tonsor.shrink.value import Call, Contraction, NoRule, Value, execute

INPUT, OUTPUT = "model input", "model output"
BLOCKS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}  # where each has its graph


@dataclass(frozen=True)
class Entry:
    """Say which labels one dimension of a parameter or buffer has: `start`, `start + 1`, ...

    Example:
        >>> Entry("0.weight", 0, 1, 300)
        Entry(name='0.weight', dim=0, start=1, size=300)
    """

    name: str
    dim: int
    start: int
    size: int


@dataclass
class Interpreter:
    """Walk through a graph and hand each operation to its rule.

    Args:
        trace: The model's graph.
        tensors: Real parameters and buffers by their first names, as far as they are known.
        example: Real inputs by placeholder: the graph is then run in earnest too. `None`: only what
            depends on no input and on no unknown tensor is computed.
        watch: Called with each sum over channels, while what it read is still there.
        unruled: The nodes whose rule did not foresee them. A run without an example finds them; a later
            run is given them, so that both freeze the same.
        seen: Where what each node gives is noted, if anywhere.

    Example:
        >>> from tonsor.shrink.trace import trace_of
        >>> trace = trace_of(torch.nn.Linear(2, 3), (torch.ones(1, 2),), {})
        >>> found = Interpreter(trace)
        >>> found.run()
        >>> [(entry.name, entry.dim) for entry in found.entries], found.labels.reasons
        ([('weight', 0), ('weight', 1), ('bias', 0)], ['', 'model input', 'model output'])
    """

    trace: Trace
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    example: Mapping[str, Any] | None = None
    watch: Callable[[Contraction], None] | None = None
    unruled: set[Any] = field(default_factory=set)
    seen: dict[Any, Any] | None = None
    labels: Labels = field(default_factory=Labels)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels.freedom = self.trace.freedom

    def run(self) -> None:
        """Interpret the whole graph, then freeze what reaches an output and square what was split."""
        used = {self.trace.sources.get(n.name) for n in self.trace.graph.nodes if n.users}
        for name in (name for name in self.trace.shapes if name in used):
            if name in self.trace.buffers:  # they come after the parameters
                self.labels.weak = min(self.labels.weak, self._next())
            for dim, size in enumerate(self.trace.shapes[name]):
                if size > 1:
                    self.entries.append(Entry(name, dim, self._next(), size))
        self.labels.new(sum(entry.size for entry in self.entries))
        self.labels.bound = len(self.labels.root)
        known = {node: self._source(node) for node in self.trace.graph.nodes if node.op == "placeholder"}
        with torch.no_grad():
            for value in leaves(self._walk(self.trace.graph, known)):
                for layer in value.layers:
                    self.labels.freeze(layer, OUTPUT)
            self.labels.square()
            self.labels.still()

    def _next(self) -> int:
        """Return the first label that no entry has yet."""
        return self.entries[-1].start + self.entries[-1].size if self.entries else 1

    def _walk(self, graph: Any, known: dict[Any, Any]) -> Any:
        """Carry out a graph node by node, drop what nobody needs any more, return its outputs."""
        left = {node: len(node.users) for node in graph.nodes}
        for node in graph.nodes:
            if node.op == "output":
                return torch.fx.node.map_arg(node.args[0], known.__getitem__)
            if node.op == "get_attr":
                known[node] = operator.attrgetter(node.target)(graph.owning_module)
            elif node.op == "call_function":
                known[node] = self._call(node, known)
            if self.seen is not None:
                self.seen[node] = known[node]
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used]:
                    del known[used]
        return ()

    def _source(self, node: Any) -> Any:
        """Return the value of a placeholder: a parameter or buffer with labels, a constant, an input."""
        trace = self.trace
        if node.name in trace.sources:
            return self._labelled(trace.sources[node.name])
        if node.name in trace.constants:
            return _constant(trace.constants[node.name], "a constant tensor")
        given = trace.inputs[node.name] if self.example is None else self.example[node.name]
        if not isinstance(given, Tensor):
            return given
        live = torch.ones((1,) * given.ndim, dtype=torch.bool)
        real = None if self.example is None else given
        return Value(tuple(given.shape), (), live, INPUT, real=real)

    def _labelled(self, name: str) -> Value:
        """Return a parameter or buffer with one layer of labels for each dimension."""
        shape = self.trace.shapes[name]
        layers = tuple(
            torch.arange(entry.start, entry.start + entry.size).reshape(
                [entry.size if dim == entry.dim else 1 for dim in range(len(shape))]
            )
            for entry in self.entries
            if entry.name == name
        )
        real = self.tensors.get(name)
        live = torch.zeros((1,) * len(shape), dtype=torch.bool)
        return Value(shape, layers, live, constant=True, real=real, name=name)

    def _call(self, node: Any, known: dict[Any, Any]) -> Any:
        """Return what one operation gives."""
        args = torch.fx.node.map_arg(node.args, known.__getitem__)
        kwargs = torch.fx.node.map_arg(node.kwargs, known.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(node.target, torch._ops.OpOverload):
            return self._higher_order(node, args, kwargs)
        given = bind(node.target, args, kwargs)
        call = Call(named(node), node.target, given, shapes(node.meta.get("val")))
        result = self._ruled(call, node)
        values, real = call.values, self._executed(call, call.values)
        if call.op._schema.is_mutable and any(bool(value.live.any()) for value in values):
            _stir_(known, written(call))
        fixed = next((v.fixed for v in values if v.fixed), call.name)
        return completed(result, real, fixed, constant=all(v.constant for v in values))

    def _ruled(self, call: Call, node: Any) -> Any:
        """Apply the operation's rule; where there is none, freeze."""
        if not call.shapes:
            return None
        rule = RULES.get(key(call.op, overload=True)) or RULES.get(key(call.op, overload=False))
        reason = f"no rule for {call.name}"
        if not call.values and rule is not made:
            reason, rule = call.name, None
        if rule is None or node in self.unruled:
            return self._frozen(call, reason)
        try:
            return self._watched(checked(rule(call, self.labels), call))
        except NoRule as error:
            return self._frozen(call, f"{reason}: {error}")
        except MODEL_ERRORS:
            if self.example is not None:
                raise
            self.unruled.add(node)
            return self._frozen(call, reason)

    def _watched(self, result: Any) -> Any:
        """Return what a rule gave, and show the sums over channels to who watches."""
        for value in leaves(result):
            for contraction in value.contractions:
                if self.watch is not None:
                    self.watch(contraction)
        return result

    def _frozen(self, call: Call, reason: str) -> Any:
        """Freeze all labels that an operation is given; what it returns has none."""
        for value in call.values:
            for layer in value.layers:
                self.labels.freeze(layer, reason)
        live = any(bool(value.live.any()) for value in call.values)
        made = [Value(shape, (), torch.full((1,) * len(shape), live), reason) for shape in call.shapes]
        return made if len(made) > 1 or returns_list(call.op) else made[0]

    def _executed(self, call: Call, values: Sequence[Value]) -> Any:
        """Run the operation on real tensors, where all are known."""
        if any(value.real is None for value in values):
            return None
        if self.example is None and call.op._schema.is_mutable:
            return None  # what it changes may be the model's own
        given = {name: real_of(item) for name, item in call.given.items()}
        return execute(call.op, given)

    def _higher_order(self, node: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Walk into a block that sets gradients or types; any other with a graph of its own has no rule."""
        name = str(node.target)
        if name in BLOCKS:
            place_ = BLOCKS[name]
            graph = args[place_].graph
            inner = [node for node in graph.nodes if node.op == "placeholder"]
            known = dict(zip(inner, args[place_ + 1 :], strict=True))
            if name == "wrap_with_set_grad_enabled":
                return self._walk(graph, known)
            with torch.autocast(args[0], dtype=args[1], enabled=args[2], cache_enabled=False):
                return self._walk(graph, known)
        given = {str(i): item for i, item in enumerate([*args, *kwargs.values()])}
        call = Call(f"{name}{place(node)}", node.target, given, shapes(node.meta.get("val")))
        reason = f"no rule for {call.name}"
        result = self._frozen(call, reason) if call.shapes else None
        if any(value.real is None for value in call.values):
            return result
        real = node.target(*map(real_of, args), **{key: real_of(item) for key, item in kwargs.items()})
        return completed(result, real, reason, constant=False)


def _constant(tensor: Tensor, fixed: str) -> Value:
    """Return a tensor that the graph holds itself."""
    live = torch.zeros((1,) * tensor.ndim, dtype=torch.bool)
    return Value(tuple(tensor.shape), (), live, fixed, constant=True, real=tensor)


def _stir_(known: dict[Any, Any], changed: Sequence[Value]) -> None:
    """Let everything that shares memory with what was changed in place be live."""
    memories = {memory_of(value) for value in changed if value.real is not None}
    for node, value in known.items():
        if isinstance(value, Value) and value.real is not None and memory_of(value) in memories:
            known[node] = replace(value, live=torch.ones_like(value.live))
