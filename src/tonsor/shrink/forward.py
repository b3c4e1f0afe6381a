"""Let a module run a rewritten graph in place of its forward."""

import copy
import operator
from collections.abc import Mapping
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
        graph: The rewritten graph.
        trace: Who the graph's inputs are.

    Example:
        >>> from tonsor.shrink.trace import trace_of
        >>> model = nn.Linear(2, 3)
        >>> trace = trace_of(model, (torch.ones(1, 2),), {})
        >>> GraphForward(model, trace.graph.owning_module, trace).forward(torch.ones(1, 2)).shape
        torch.Size([1, 3])
    """

    def __init__(self, owner: nn.Module, graph: torch.fx.GraphModule, trace: Trace) -> None:
        self.owner, self.graph = owner, graph
        self.sources, self.constants = trace.sources, trace.constants
        self.given, self.specs = tuple(trace.inputs), trace.specs
        self.order = [node.name for node in trace.graph.nodes if node.op == "placeholder"]
        self.flags = _follow_(graph)

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
    if flags:
        module.recompile()
    return flags
