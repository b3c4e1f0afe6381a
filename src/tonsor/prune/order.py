"""The order in which layers are called, and the chain of blocks they lie in: found by one run."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.prune.layers import Layer, Raw

PLAIN = (bool, int, float, str, torch.dtype, torch.device)  # arguments that cannot change between two calls


@dataclass(frozen=True, eq=False)
class Group:
    """Hold layers that are fed the same input, and how often they are called."""

    layers: tuple[Layer, ...]
    calls: int


@dataclass(frozen=True, eq=False)
class Part:
    """Hold groups in the order of their calls, and the block that has to run for them; or none: the model."""

    block: nn.Module | None
    groups: tuple[Group, ...]


@dataclass(eq=False)
class _Block:
    """Note one call of a block."""

    module: nn.Module
    container: nn.Module
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    version: int
    output: Any = None
    left_at: int = 0


@dataclass(eq=False)
class _Seen:
    """Note what one run has called."""

    blocks: list[_Block] = field(default_factory=list)
    active: list[nn.Module] = field(default_factory=list)
    layers: list[tuple[Layer, Raw, tuple[int, ...], tuple[nn.Module, ...]]] = field(default_factory=list)


def plan(
    model: nn.Module, layers: Sequence[Layer], inputs: tuple[Any, ...], named: dict[str, Any], /
) -> list[Part]:
    """Run the model once and say in which parts its layers can be visited, in the order of their calls.

    A chain is a run of modules of one `nn.Sequential` or `nn.ModuleList` where each is given what the one
    before returned, and else the same arguments. Its blocks can be run one by one. What is called before
    the chain or after it, and everything where there is none, takes runs of the whole model.

    Args:
        model: The model.
        layers: The layers to visit.
        inputs: Arguments of the run.
        named: Keyword arguments of the run.

    Returns:
        The parts; layers that were not called are in none.

    Example:
        >>> from tonsor.prune.layers import layer_of
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> layers = [layer_of(model, name) for name in ("2.weight", "0.weight")]
        >>> parts = plan(model, layers, (torch.zeros(1, 2),), {})
        >>> [[layer.name for group in part.groups for layer in group.layers] for part in parts]
        [['0.weight'], [], ['2.weight']]
    """
    seen = _watched(model, layers, inputs, named)
    first = {layer: place for place, (layer, *_) in reversed(list(enumerate(seen.layers)))}
    groups = _groups(seen, sorted(first, key=first.__getitem__))
    chain = _best_chain(seen)
    inside = {layer: block for block, those in chain.items() for layer in those}
    in_chain = [group for group in groups if group.layers[0] in inside]
    if not in_chain:
        return [Part(None, tuple(groups))] if groups else []
    begin = groups.index(in_chain[0])
    outside = [group for group in groups if group not in in_chain]
    before = [group for group in outside if groups.index(group) < begin]
    after = [group for group in outside if groups.index(group) > begin]
    blocks = list(chain)
    last = blocks.index(inside[in_chain[-1].layers[0]])
    parts = [
        Part(block, tuple(group for group in in_chain if inside[group.layers[0]] is block))
        for block in blocks[: last + 1]
    ]
    whole = [[Part(None, tuple(those))] if those else [] for those in (before, after)]
    return [*whole[0], *parts, *whole[1]]


def _watched(
    model: nn.Module, layers: Iterable[Layer], inputs: tuple[Any, ...], named: dict[str, Any]
) -> _Seen:
    """Run the model and note the calls of layers, and of the modules in its lists."""
    seen = _Seen()
    containers = [m for m in model.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    children = {child: container for container in reversed(containers) for child in container.children()}
    with ExitStack() as stack:  # blocks begin before their layers are seen, and end after
        for child, container in children.items():
            hook = partial(_begin, seen, container)
            stack.enter_context(child.register_forward_pre_hook(hook, with_kwargs=True))
        for layer in layers:
            stack.enter_context(layer.watch(partial(_see, seen, layer)))
        for child in children:
            stack.enter_context(child.register_forward_hook(partial(_end, seen)))
        model(*inputs, **named)
    return seen


def _begin(seen: _Seen, container: nn.Module, module: nn.Module, inputs: Any, named: Any) -> None:
    """Note that a block begins."""
    version = inputs[0]._version if inputs and isinstance(inputs[0], Tensor) else -1
    seen.blocks.append(_Block(module, container, inputs, named, version))
    seen.active.append(module)


def _end(seen: _Seen, module: nn.Module, _: Any, output: Any) -> None:
    """Note that a block ends."""
    seen.active.remove(module)
    block = next(block for block in reversed(seen.blocks) if block.module is module)
    block.output = output[0] if isinstance(output, tuple) and output else output
    block.left_at = block.output._version if isinstance(block.output, Tensor) else -1


def _see(seen: _Seen, layer: Layer, raw: Raw) -> None:
    """Note that a layer is called."""
    versions = tuple(x._version for x in raw)
    seen.layers.append((layer, raw, versions, tuple(seen.active)))


def _groups(seen: _Seen, order: Sequence[Layer]) -> list[Group]:
    """Join neighbours that are fed the same tensor in the same way."""
    calls: dict[Layer, list[Any]] = {layer: [] for layer in order}
    for layer, raw, versions, _ in seen.layers:
        calls[layer].append(([id(x) for x in raw], versions, layer.geometry))
    groups: list[Group] = []
    for layer in order:
        last = groups[-1].layers[0] if groups else layer
        if last is not layer and calls[last] == calls[layer]:
            groups[-1] = Group((*groups[-1].layers, layer), len(calls[layer]))
        else:
            groups.append(Group((layer,), len(calls[layer])))
    return groups


def _best_chain(seen: _Seen) -> Mapping[nn.Module, list[Layer]]:
    """Return the blocks of the chain that holds most layers, each with its layers; empty where none does."""
    called = [block.module for block in seen.blocks]
    best: dict[nn.Module, list[Layer]] = {}
    for container in dict.fromkeys(block.container for block in seen.blocks):
        blocks = [block for block in seen.blocks if block.container is container]
        runs: list[list[_Block]] = [[blocks[0]]]
        for one, two in pairwise(blocks):
            if _is_linked(one, two) and called.count(one.module) == called.count(two.module) == 1:
                runs[-1].append(two)
            else:
                runs.append([two])
        for run in runs:
            held = _held(seen, [block.module for block in run])
            if len(run) > 1 and sum(map(len, held.values())) > sum(map(len, best.values())):
                best = held
    return best


def _held(seen: _Seen, modules: list[nn.Module]) -> dict[nn.Module, list[Layer]]:
    """Return the layers of each block; none at all where one of them is called outside its block too."""
    held: dict[nn.Module, list[Layer]] = {module: [] for module in modules}
    where: dict[Layer, nn.Module | None] = {}
    for layer, _, _, active in seen.layers:
        block = next((module for module in active if module in held), None)
        if where.setdefault(layer, block) is not block:
            return {}
    for layer, block in where.items():
        if block is not None:
            held[block].append(layer)
    return held


def _is_linked(one: _Block, two: _Block) -> bool:
    """Return whether the second block works on the first one's output, untouched, and else alike."""
    if not (one.inputs and two.inputs and isinstance(one.inputs[0], Tensor)):
        return False
    is_handed_on = two.inputs[0] is one.output and two.version == one.left_at
    return is_handed_on and _is_same(one.inputs[1:], two.inputs[1:]) and _is_same(one.named, two.named)


def _is_same(one: Any, two: Any) -> bool:
    """Return whether two arguments are the same and cannot have changed in between."""
    if isinstance(one, Tensor) or one is None:
        return one is two
    if isinstance(one, tuple | list) and isinstance(two, tuple | list):
        return len(one) == len(two) and all(map(_is_same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_is_same(one[key], two[key]) for key in one)
    return isinstance(one, PLAIN) and type(one) is type(two) and bool(one == two)
