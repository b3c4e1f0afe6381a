"""Let a module run a rewritten graph in place of its forward."""

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.shrink.node import flags_of, place
from tonsor.shrink.trace import Trace


class GraphForward:
    """Run a graph on the parameters and buffers of a module, which it belongs to.

    The module stays the object it is: its parameters, its state, its training flags and its ties. Dropout
    and batch norms follow the flags of their own modules.

    Args:
        owner: The module whose tensors are read at each call.
        graph: The rewritten graph; it is copied.
        trace: Who the graph's inputs are.

    Example:
        >>> from tonsor.shrink.trace import trace_of
        >>> model = nn.Linear(2, 3)
        >>> trace = trace_of(model, (torch.ones(1, 2),), {})
        >>> GraphForward(model, trace.graph.owning_module, trace).forward(torch.ones(1, 2)).shape
        torch.Size([1, 3])
    """

    def __init__(self, owner: nn.Module, graph: torch.fx.GraphModule, trace: Trace) -> None:
        self.owner, self.graph = owner, copy.deepcopy(graph)
        self.given, self.specs, self.constants = tuple(trace.inputs), trace.specs, trace.constants
        order = [node.name for node in trace.graph.nodes if node.op == "placeholder"]
        fresh = _biased_(self.graph, owner, [trace.sources.get(name, "") for name in order])
        self.order, self.sources = [*order, *fresh], {**trace.sources, **fresh}
        self.flags = _follow_(self.graph)
        self.graph.recompile()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run on arguments of the example's kind: as many, under the same names."""
        from torch.utils._pytree import tree_flatten, tree_unflatten

        want, out = self.specs
        names = want.children()[1].context if want.num_children > 1 else []
        if set(names) == set(kwargs):
            kwargs = {name: kwargs[name] for name in names}
        leaves, spec = tree_flatten((args, kwargs))
        if len(leaves) != len(self.given):
            raise ValueError(
                "the forward of a shrunk model was rewritten and takes arguments as its example had them: "
                f"{want}; got {spec}"
            )
        for flag, path in self.flags.items():
            setattr(self.graph, flag, self.owner.get_submodule(path).training)
        values = self._values(dict(zip(self.given, leaves, strict=True)))
        return tree_unflatten(list(self.graph(*values)), out)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphForward":
        """Return a copy that belongs to the copy of its module."""
        twin = object.__new__(GraphForward)
        memo[id(self)] = twin
        twin.__dict__ = {**self.__dict__, "graph": copy.deepcopy(self.graph, memo)}
        twin.owner = copy.deepcopy(self.owner, memo)
        return twin

    def _values(self, given: Mapping[str, Any]) -> list[Any]:
        """Return what each placeholder stands for."""
        own = {name: operator.attrgetter(path)(self.owner) for name, path in self.sources.items()}
        devices = [tensor.device for tensor in own.values()]
        held = {
            name: tensor.to(devices[0]) if devices and isinstance(tensor, Tensor) else tensor
            for name, tensor in self.constants.items()
        }
        known = {**own, **held, **given}
        return [known[name] for name in self.order]


def _biased_(module: torch.fx.GraphModule, owner: nn.Module, sources: Sequence[str]) -> dict[str, str]:
    """Let layers add the biases they were given; return each new input's parameter, in their order."""
    inputs = module.graph.find_nodes(op="placeholder")
    fresh: dict[str, str] = {}
    last = inputs[-1]
    for node, source in zip(inputs, sources, strict=True):
        path, _, leaf = source.rpartition(".")
        given = leaf == "weight" and owner.get_submodule(path)._parameters.get("bias") is not None
        for user, position in _without_bias(node) if given else ():
            with module.graph.inserting_after(last):
                last = module.graph.placeholder(f"p_new_bias_{len(fresh)}")
            fresh[last.name] = f"{path}.bias".removeprefix(".")
            user.args = (*user.args[:position], last, *user.args[position + 1 :])
    return fresh


def _without_bias(weight: Any) -> list[tuple[Any, int]]:
    """Return the layers that use a weight and no bias, each with the place where one would stand."""
    found = []
    for user in weight.users:
        schema = getattr(user.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema else []
        position = names.index("bias") if "bias" in names else 0
        if position and user.args[position : position + 1] in ((), (None,)) and "bias" not in user.kwargs:
            found.append((user, position))
    return found


def _follow_(module: torch.fx.GraphModule) -> dict[str, str]:
    """Let dropout and norms ask for a flag instead of being switched off; return each flag's module."""
    flags: dict[str, str] = {}
    for node in list(module.graph.nodes):
        for position in flags_of(node):
            path = place(node).removeprefix(" in ")
            flag = f"trains_{len(flags)}"
            flags[flag] = path
            setattr(module, flag, False)
            with module.graph.inserting_before(node):
                asked = module.graph.create_node("get_attr", flag)
            node.args = (*node.args[:position], asked, *node.args[position + 1 :])
    return flags
