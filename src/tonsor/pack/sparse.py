"""Swap a model's pruned layers for ones that use their zeros, and back."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import call, evaluating, rows
from tonsor.pack.sparse_compiled import compiled
from tonsor.pack.sparse_layers import CONVOLUTIONS, SparseLayer, is_conv1d
from tonsor.pack.sparse_measure import WORSE, fastest, in_turns, link_, shapes_of, summary, timed
from tonsor.pack.sparse_report import Choice, Swapped, Timed
from tonsor.pack.sparse_unfold import out_sizes
from tonsor.pack.sparse_ways import EXACT, WAYS
from tonsor.spelling import unknown

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


def swap_sparse_(
    model: nn.Module,
    example: Example,
    /,
    *,
    batches: Sequence[int] = (1, 64),
    ways: Sequence[str] = EXACT,
    densest: float = 0.7,
    seconds: float = 0.1,
) -> Swapped:
    """Replace pruned layers by ones that use their zeros, where that is faster here.

    Each layer is timed in every way, in turns, at the sizes that the model feeds it: dense, by MKL's CSR, by
    a kernel that is compiled for this processor, and in whole numbers of 8 bits. It is swapped where one of
    the ways is clearly faster for some batch and the swapped layer is slower than the dense one for none.
    Where the whole model becomes slower for some batch, all is put back.

    The times hold for this machine, the batches given, and the threads torch is set to use: swap where the
    model is to run. The result is for inference alone; `densify_` undoes it.

    Args:
        model: Float32, on the CPU; changed in place. Linear layers, convolutions (grouped, strided, dilated)
            and Hugging Face's `Conv1D` are tried.
        example: One input, a tuple of arguments, or a mapping of keyword arguments.
        batches: Numbers of samples to be fast at; a layer chooses for each, and between by the nearer.
        ways: Those to choose among. "int8" changes outputs, so it is timed and told, but taken only if named
            here. Without "dense" every layer is swapped, faster or not.
        densest: Layers of a higher density are not tried, in [0, 1].
        seconds: Spent on timing each layer and batch; more is steadier.

    Returns:
        What was measured and chosen; `told` is a text, `rows()` a table.

    Raises:
        ValueError: If a way is unknown, a batch is below 1, or the model is a single layer, which cannot be
            replaced in itself.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        >>> with torch.no_grad():
        ...     _ = model[0].weight[torch.rand(64, 64) < 0.9] = 0     # nine in ten are gone
        >>> swapped = swap_sparse_(model, torch.ones(1, 64), ways=("kernel",), seconds=0)
        >>> [choice.name for choice in swapped.choices], swapped.left
        (['0'], {'2': 'density 1.00 is above 0.7'})

    References:
        Elsen et al., 2020, "Fast Sparse ConvNets", https://arxiv.org/abs/1911.09723 (columns as lanes);
        Park et al., 2017, "Faster CNNs with Direct Sparse Convolutions and Guided Pruning",
        https://arxiv.org/abs/1608.01409 (images read in their place)
    """
    _check(model, batches, ways, densest)
    layers, left = _layers(model, densest)
    sizes = _sizes(model, example, batches, layers)
    left |= {name: "the example never calls it" for name in layers if not sizes[name]}
    choices = [_choose(n, layer, sizes[n], ways, seconds) for n, layer in layers.items() if sizes[n]]
    swaps = {id(layers[c.name]): SparseLayer(layers[c.name], c.plan) for c in choices if c.swapped}
    places = [(*place, swaps[id(place[2])]) for place in _places(model) if id(place[2]) in swaps]
    _put_(places, sparse=True)
    linked = link_(model, _samples(example, max(2, *batches))) if places else []
    clock = _clock(model, places, {batch: _samples(example, batch) for batch in batches}, seconds)
    notes = []
    if "dense" in ways and any(taken.ratios["swapped"] > WORSE for taken in clock.values()):
        _put_(places, sparse=False)
        notes = ["the whole model was slower with swapped layers for some batch: all layers are dense again"]
        choices, linked = [replace(choice, swapped=False) for choice in choices], []
    return Swapped(choices, left, linked, clock, compiled().told, torch.get_num_threads(), notes)


def densify_(model: nn.Module, /) -> list[str]:
    """Put plain layers in the places of those that use their zeros: what trains and is exported.

    The zeros stay zeros. Each layer is of its old type, with its settings, its weight and bias of now.

    Args:
        model: Changed in place.

    Returns:
        The names of the layers that were replaced.

    Example:
        >>> model = nn.Sequential(SparseLayer(nn.Linear(3, 2).eval(), {1: "kernel"}))
        >>> densify_(model), model[0]
        (['0'], Linear(in_features=3, out_features=2, bias=True))
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer)}
    dense = {id(module): module.dense_layer() for module in found.values()}
    for parent, name, module in list(_places(model)):
        if id(module) in dense:
            parent._modules[name] = dense[id(module)]
    return list(found)


def _check(model: nn.Module, batches: Sequence[int], ways: Sequence[str], densest: float) -> None:
    """Refuse settings that make no sense, before anything is changed."""
    for way in ways:
        if way not in WAYS:
            raise ValueError(f"pack.swap_sparse_: {unknown('way', way, WAYS)}")
    if not ways or not batches or min(batches) < 1:
        raise ValueError(
            f"pack.swap_sparse_: name a way, and batches of 1 or more; got ways={ways}, batches={batches}"
        )
    if not 0 <= densest <= 1:
        raise ValueError(f"pack.swap_sparse_: densest is a density in [0, 1]; got {densest}")
    if not any(True for _ in model.children()):
        raise ValueError(
            f"pack.swap_sparse_: a {type(model).__name__} has no layers to replace; wrap it in nn.Sequential"
        )


def _layers(model: nn.Module, densest: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the layers to try, and why others are left alone."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    fused = {
        id(inner)
        for outer in model.modules()
        if isinstance(outer, nn.TransformerEncoderLayer)
        for inner in outer.modules()
    }
    found: dict[str, Any] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not is_conv1d(module):
            continue
        why = "a fused call of nn.TransformerEncoderLayer reads its weight" if id(module) in fused else None
        why = why or _why_not(module, owners, densest)
        if why:
            left[name] = why
        else:
            found[name] = module
    return found, left


def _why_not(layer: Any, owners: Mapping[int, int], densest: float) -> str | None:
    """Return why a layer cannot be swapped, if it cannot."""
    if type(layer) not in (nn.Linear, *CONVOLUTIONS) and not is_conv1d(layer):
        return f"a {type(layer).__name__} is no plain layer"
    if any(getattr(layer, hooks) for hooks in HOOKS):
        return "it has hooks"
    if owners[id(layer.weight)] > 1:
        return "its weight is tied to another layer's"
    if layer.weight.dtype != torch.float32 or not layer.weight.is_cpu:
        return f"it is {layer.weight.dtype} on {layer.weight.device}, not float32 on the CPU"
    density = torch.count_nonzero(layer.weight).item() / max(1, layer.weight.numel())
    return f"density {density:.2f} is above {densest}" if density > densest else None


def _sizes(
    model: nn.Module, example: Example, batches: Sequence[int], layers: Mapping[str, Any]
) -> dict[str, dict[int, tuple[int, ...]]]:
    """Return for each layer the shapes it is fed, by how many columns they make."""
    sizes: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in layers}
    for batch in batches:
        for name, shapes in shapes_of(model, _samples(example, batch), layers).items():
            sizes[name] |= {_columns(layers[name], shape): shape for shape in shapes}
    return sizes


def _columns(layer: Any, shape: tuple[int, ...]) -> int:
    """Return how many columns an input has: the rows of a matrix, or the places of a convolution's output."""
    if not isinstance(layer, CONVOLUTIONS):
        return prod(shape[:-1])
    inner = len(layer.kernel_size)
    return prod(shape[: -inner - 1]) * prod(out_sizes(layer, shape[-inner:]))


def _choose(
    name: str, layer: Any, sizes: Mapping[int, tuple[int, ...]], ways: Sequence[str], seconds: float
) -> Choice:
    """Return what a layer's times are, and the plan that follows from them."""
    tried = {way: SparseLayer(layer, {1: way}).eval() for way in WAYS if way != "dense"}
    times = {columns: timed(layer, tried, shape, seconds) for columns, shape in sizes.items()}
    plan = {columns: fastest(times[columns], ways) for columns in sizes}
    swapped = SparseLayer(layer, plan).eval()
    swap = "dense" not in ways
    if not swap and set(plan.values()) != {"dense"}:
        dense = [sizes[columns] for columns, way in plan.items() if way == "dense"]
        again = [timed(layer, {"swapped": swapped}, shape, seconds).ratios["swapped"] for shape in dense]
        swap = all(ratio <= WORSE for ratio in again)
    had = layer.weight.numel() * layer.weight.itemsize
    return Choice(name, swapped.density, times, plan, swap, (swapped.bytes if swap else had, had))


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield each module's children, with the names they have in it; one in two places comes twice."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                yield parent, name, child


def _put_(places: Sequence[tuple[nn.Module, str, nn.Module, nn.Module]], *, sparse: bool) -> None:
    """Put the layers that use their zeros in their places, or the dense ones."""
    for parent, name, dense, swapped in places:
        parent._modules[name] = swapped if sparse else dense


def _clock(
    model: nn.Module, places: Sequence[Any], inputs: Mapping[int, Any], seconds: float
) -> dict[int, Timed]:
    """Return how long the whole model takes with dense layers and with swapped ones, by batch."""

    def run(given: Any, sparse: bool) -> None:
        """Call the model with one kind of layers."""
        _put_(places, sparse=sparse)
        call(model, given)

    found: dict[int, Timed] = {}
    for batch, given in inputs.items() if places else ():
        calls = {"dense": partial(run, given, False), "swapped": partial(run, given, True)}
        _put_(places, sparse=True)
        with evaluating(model):  # both kinds of layers
            _put_(places, sparse=False)
            with evaluating(model):
                found[batch] = summary(in_turns(calls, seconds=seconds))
    _put_(places, sparse=True)
    return found


def _samples(example: Example, batch: int) -> Any:
    """Return the example with so many samples."""
    if isinstance(example, Mapping):
        return dict(zip(example, rows(tuple(example.values()), batch), strict=True))
    return rows(example, batch)
