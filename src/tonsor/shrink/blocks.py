"""Whole residual blocks: which modules can be left out, and how little each of them does."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import call, evaluating
from tonsor.shrink.factors import FACTORS
from tonsor.shrink.node import bind, key, shapes
from tonsor.shrink.trace import Trace, trace_of
from tonsor.spelling import unknown

# What a shortcut may pass through and stay what it is; of a rectified input a rectifier changes nothing.
CARRIERS = {f"aten.{name}" for name in ("dropout", "clone", "contiguous", "alias", "relu", "to", "detach")}


@dataclass(frozen=True)
class Block:
    """Hold a module that adds something to what it is given, and returns it in the same shape.

    Args:
        name: The module.
        params: Its parameters.
        macs: Its multiplications in one call on the example.
        adds: The additions in its graph, each with the place of the shortcut among the operands.

    Example:
        >>> Block("layers.0", 12, 24)
        Block(name='layers.0', params=12, macs=24)
    """

    name: str
    params: int
    macs: int
    adds: tuple[tuple[Any, int], ...] = field(repr=False, default=())


@dataclass(frozen=True)
class Blocks:
    """Hold a model's residual blocks by name, and the graph they were found in.

    Example:
        >>> model = nn.Sequential(nn.TransformerEncoderLayer(4, 1, 8, norm_first=True), nn.Linear(4, 2))
        >>> list(residual_blocks(model, torch.ones(2, 3, 4)).blocks)
        ['0']
    """

    blocks: dict[str, Block]
    trace: Trace = field(repr=False)

    def named(self, names: Sequence[str], where: str) -> list[Block]:
        """Return the blocks of these names."""
        for name in names:
            if name not in self.blocks:
                raise ValueError(f"shrink.{where}: {unknown('residual block', name, self.blocks)}")
        return [self.blocks[name] for name in dict.fromkeys(names)]


def residual_blocks(
    model: nn.Module,
    example_args: Tensor | tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
) -> Blocks:
    """Find the modules that can be left out whole: those which return what they are given plus something.

    A module is one if its output is reached from its input by additions alone, in the same shape; dropout and
    a rectifier may follow. One whose sum is normalised afterwards, as in the first transformers, is none:
    without its branch it would still change its input. Of modules inside one another the smallest are taken.

    Args:
        model: Any module that `torch.export` can export; nothing of it changes.
        example_args: The arguments of one call; a lone tensor may stand for itself.
        example_kwargs: Arguments by name.

    Raises:
        ValueError: If the model cannot be exported.

    Example:
        >>> class Doubled(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = nn.Linear(3, 3)
        ...     def forward(self, x):
        ...         return x + self.inner(x)
        >>> model = nn.Sequential(nn.Linear(2, 3), Doubled(), Doubled())
        >>> list(residual_blocks(model, torch.ones(1, 2)).blocks.values())
        [Block(name='1', params=12, macs=9), Block(name='2', params=12, macs=9)]
    """
    args = (example_args,) if isinstance(example_args, Tensor) else tuple(example_args)
    trace = trace_of(model, args, dict(example_kwargs or {}))
    paths: dict[Any, list[str]] = {node: _paths(node) for node in trace.graph.nodes}
    inside: dict[str, list[Any]] = {}
    for node, own in paths.items():
        for path in own:
            inside.setdefault(path, []).append(node)
    found = {path: block for path in inside if (block := _block(model, path, inside[path], trace))}
    smallest = {
        path: block
        for path, block in found.items()
        if not any(
            other != path and other.startswith(f"{path}.") and set(found[other].adds) & set(block.adds)
            for other in found
        )
    }
    return Blocks(smallest, trace)


def block_influence(model: nn.Module, blocks: Blocks, batches: Iterable[Any], /) -> dict[str, float]:
    r"""Return how much each block changes what passes through it: :math:`1 - \cos(x, f(x))`, on average.

    The cosine is that of each position: along the last dimension of tokens, along the channels of images. A
    block near 0 hands on what it got, and is missed least.

    Args:
        model: It runs in eval mode, and is left as it was, hooks included.
        blocks: From `residual_blocks`.
        batches: Inputs of the model: a tensor, a tuple of arguments, or a mapping of arguments by name.

    Returns:
        One number from 0 to 2 for each block, over all positions of all batches.

    Raises:
        ValueError: If there is no batch.

    Example:
        >>> model = nn.TransformerEncoderLayer(4, 1, 8, norm_first=True)
        >>> model = nn.Sequential(model)
        >>> for p in model.parameters(): _ = p.data.zero_()
        >>> block_influence(model, residual_blocks(model, torch.ones(2, 3, 4)), [torch.ones(2, 3, 4)])
        {'0': 0.0}

    References:
        Men et al., 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect",
        https://arxiv.org/abs/2403.03853
    """
    sums: dict[str, list[Tensor]] = {name: [] for name in blocks.blocks}
    with evaluating(model), ExitStack() as stack:
        for name in sums:
            hook = model.get_submodule(name).register_forward_hook(_watching(sums[name]), with_kwargs=True)
            stack.callback(hook.remove)
        for inputs in batches:
            call(model, inputs)
    if any(not apart for apart in sums.values()):
        raise ValueError(
            "shrink.block_influence: there was no batch; give at least one (an iterator runs once)"
        )
    return {name: float(torch.cat(apart).mean()) for name, apart in sums.items()}


def first_tensor(given: Any) -> Tensor | None:
    """Return the first tensor among arguments or outputs.

    Example:
        >>> first_tensor(((None, torch.ones(1)),))
        tensor([1.])
    """
    from torch.utils._pytree import tree_leaves

    return next((leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)), None)


def _watching(sums: list[Tensor]) -> Callable[..., None]:
    """Return a hook that notes how far outputs lie from inputs."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before, after = first_tensor((args, kwargs)), first_tensor(output)
        if before is None or after is None:
            return
        dim = 1 if before.ndim > 3 else -1
        cosine = torch.cosine_similarity(before.double(), after.double(), dim=dim)
        sums.append((1 - cosine).clamp(min=0).flatten())

    return hook


def _paths(node: Any) -> list[str]:
    """Return the modules that a node stands in, the outermost left out."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    return [path for path, _ in stack if path]


def _block(model: nn.Module, path: str, nodes: list[Any], trace: Trace) -> Block | None:
    """Return the module as a block if it is one."""
    own = set(nodes)
    outputs = [node for node in nodes if any(user not in own for user in node.users)]
    if len(outputs) != 1:
        return None
    adds = next(_shortcuts(outputs[0], own, trace), None)
    if not adds:
        return None
    macs = sum(part[0] for node in nodes for part in _factors(node))
    params = sum(p.numel() for p in model.get_submodule(path).parameters())
    return Block(path, params, macs, tuple(adds))


def _shortcuts(node: Any, own: set[Any], trace: Trace) -> Iterator[list[tuple[Any, int]]]:
    """Yield the additions on each way from a module's output back to its input."""
    if node not in own:
        if node.op == "call_function" or node.name in trace.inputs:
            yield []
        return
    if not hasattr(node.target, "_schema"):
        return
    name = key(node.target, overload=False)
    if name in CARRIERS:
        yield from _shortcuts(node.args[0], own, trace)
    if name != "aten.add" or node.kwargs.get("alpha", 1) != 1:
        return
    for place, operand in enumerate(node.args[:2]):
        same = hasattr(operand, "meta") and shapes(operand.meta.get("val")) == shapes(node.meta.get("val"))
        for rest in _shortcuts(operand, own, trace) if same else ():
            yield [*rest, (node, place)]


def _factors(node: Any) -> list[tuple[int, Any, Any]]:
    """Return the multiplications of a node."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return []
    count = FACTORS.get(key(node.target, overload=False))
    return count(node, bind(node.target, node.args, node.kwargs)) if count else []
