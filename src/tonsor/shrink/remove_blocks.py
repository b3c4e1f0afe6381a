"""Leave out whole residual blocks, in place and with a proof."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.shrink.blocks import Block, Blocks, first_tensor
from tonsor.shrink.copies import copied
from tonsor.shrink.proof import Unequal, prove
from tonsor.shrink.trace import Trace, named_tensors
from tonsor.tensors import distinct


class Skip(nn.Module):
    """Hand on the first tensor: what stands where a residual block was.

    The names of all other modules stay, and so do those in a `state_dict`.

    Args:
        values: How many values the block returned; those after the first are `None`. 0 for a bare tensor.

    Example:
        >>> Skip()(torch.ones(1), mask=None), Skip(2)(torch.ones(1))
        (tensor([1.]), (tensor([1.]), None))
    """

    def __init__(self, values: int = 0) -> None:
        super().__init__()
        self.values = values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first tensor as the block would have."""
        x = first_tensor((args, kwargs))
        return (x, *[None] * (self.values - 1)) if self.values else x

    def extra_repr(self) -> str:
        """Return the settings that are not those it comes with."""
        return f"values={self.values}" if self.values else ""


@dataclass(frozen=True)
class Removed:
    """Say which blocks were left out of a model, and how that was proved.

    Args:
        blocks: Their names.
        before: Parameters before.
        after: Parameters after.
        max_difference: The largest difference of an output from that of the model whose branches were set to
            zero, as a share of the largest output.

    Example:
        >>> print(Removed(("layers.3",), 40, 30, 0.0))
        40 parameters became 30 without layers.3; outputs differ by at most 0.0e+00 of the largest
    """

    blocks: tuple[str, ...]
    before: int
    after: int
    max_difference: float

    def __str__(self) -> str:
        return (
            f"{self.before:,} parameters became {self.after:,} without {', '.join(self.blocks)}; "
            f"outputs differ by at most {self.max_difference:.1e} of the largest"
        )


def remove_blocks_(
    model: nn.Module,
    blocks: Blocks,
    names: Sequence[str],
    optimizer: torch.optim.Optimizer | None = None,
) -> Removed:
    """Leave out residual blocks, in place, and prove that this is what their branches at zero would give.

    Each becomes a `Skip`. First it is done to a copy, whose outputs must be those of the model's graph in
    which nothing is added at the blocks' sums, on the example and on two random inputs. To load the weights
    later, build the model, leave out the same blocks, and load.

    Args:
        model: The module, changed in place.
        blocks: Its blocks, from `residual_blocks`.
        names: Which of them go; those of least `block_influence`, say.
        optimizer: The parameters that are gone are taken out of it, with their state.

    Returns:
        What was left out, and the largest difference.

    Raises:
        ValueError: If a name is no block's, or the outputs differ. The model is then as it was.

    Example:
        >>> from tonsor.shrink import residual_blocks
        >>> layers = [nn.TransformerEncoderLayer(4, 1, 8, norm_first=True) for _ in range(3)]
        >>> model = nn.Sequential(*layers, nn.Linear(4, 2))
        >>> blocks = residual_blocks(model, torch.ones(2, 3, 4))
        >>> print(remove_blocks_(model, blocks, ["1"]))
        526 parameters became 354 without 1; outputs differ by at most 0.0e+00 of the largest
        >>> model[1]
        Skip()
    """
    chosen = blocks.named(names, "remove_blocks_")
    small = copied(model)
    returned = _returned(small, chosen, blocks.trace)
    for block in chosen:
        _skip_(small, block.name, returned[block.name])
    try:
        difference = prove(_Zeroed(model, blocks.trace, chosen), small, blocks.trace.example)
    except Unequal as finding:
        raise ValueError(
            f"shrink.remove_blocks_: {finding}. The model is left as it was; leave fewer blocks out"
        ) from finding
    before = sum(p.numel() for p in distinct(model.parameters()))
    for block in chosen:
        _skip_(model, block.name, returned[block.name])
    if optimizer is not None:
        _forget_(optimizer, model)
    after = sum(p.numel() for p in distinct(model.parameters()))
    return Removed(tuple(block.name for block in chosen), before, after, difference)


class _Zeroed(nn.Module):
    """Run a model's graph without what some blocks add."""

    def __init__(self, model: nn.Module, trace: Trace, chosen: Sequence[Block]) -> None:
        super().__init__()
        self.held = [model]  # in a list, so that its modes are left alone
        self.trace = trace
        graph = torch.fx.Graph()
        known: dict[Any, Any] = {}
        output = graph.graph_copy(trace.graph, known)
        graph.output(output)
        for block in chosen:
            for node, place in block.adds:
                known[node].replace_all_uses_with(known[node].args[place])
                graph.erase_node(known[node])
        self.graph = torch.fx.GraphModule(trace.graph.owning_module or nn.Module(), graph)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs."""
        from torch.utils._pytree import tree_leaves

        tensors = named_tensors(self.held[0])
        given = dict(zip(self.trace.inputs, tree_leaves((args, kwargs)), strict=True))
        values = []
        for node in self.trace.graph.nodes:
            if node.op == "placeholder":
                own = self.trace.sources.get(node.name)
                values.append(
                    tensors[own] if own else self.trace.constants.get(node.name, given.get(node.name))
                )
        return self.graph(*values)


def _returned(model: nn.Module, chosen: Sequence[Block], trace: Trace) -> dict[str, int]:
    """Return how many values each block returns; 0 for a bare tensor."""
    found: dict[str, int] = {}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            found[name] = 0 if isinstance(output, Tensor) else len(output)

        return note

    handles = [model.get_submodule(b.name).register_forward_hook(hook(b.name)) for b in chosen]
    args, kwargs = trace.example
    with evaluating(model):
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def _skip_(model: nn.Module, name: str, values: int) -> None:
    """Put a `Skip` where a module was, in the same mode."""
    path, _, leaf = name.rpartition(".")
    skip = Skip(values).train(model.get_submodule(name).training)
    setattr(model.get_submodule(path), leaf, skip)


def _forget_(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Take out of an optimizer what the model no longer has."""
    left = {id(p) for p in model.parameters()}
    for group in optimizer.param_groups:
        for gone in [p for p in group["params"] if id(p) not in left]:
            optimizer.state.pop(gone, None)
        group["params"] = [p for p in group["params"] if id(p) in left]
