"""Which way is the fastest for a layer, here: measured in turns, at the sizes that the model feeds it."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tonsor.modes import call, evaluating
from tonsor.pack.sparse_layers import SparseLayer
from tonsor.pack.sparse_report import Timed

WARM_UP = 2
ROUNDS = 200  # at most; at least `FEWEST`
FEWEST = 5
BETTER = 0.95  # of the dense layer's time: what is within noise of it is left dense
GAIN = 5e-6  # seconds at least: around the kernel is Python, which takes longer where other code ran before
WORSE = 1.05  # of the dense layer's time: a swapped layer that takes longer is put back


def in_turns(calls: Mapping[str, Callable[[], object]], /, *, seconds: float = 0.1) -> dict[str, list[float]]:
    """Return the seconds of each call of each function, all taking turns.

    Args:
        calls: The functions, by name.
        seconds: How long to go on, all together; every one is called five times at least.

    Returns:
        As many times for each.

    Example:
        >>> {name: len(times) >= 5 for name, times in in_turns({"a": dict, "b": list}).items()}
        {'a': True, 'b': True}
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)  # who comes after whom matters to caches, so it is drawn
    spent = 0.0
    for turn in range(WARM_UP + ROUNDS):
        for name in draw.sample(order, len(order)):
            start = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - start)
        spent += 0.0 if turn < WARM_UP else sum(times[-1] for times in taken.values())
        if turn >= WARM_UP + FEWEST - 1 and spent > seconds:
            break
    return {name: times[WARM_UP:] for name, times in taken.items()}


def timed(layer: nn.Module, ways: Mapping[str, nn.Module], shape: tuple[int, ...], seconds: float) -> Timed:
    """Return how long a layer takes in each way, and how that compares with it round by round."""
    x = torch.randn(shape)

    def run(of: nn.Module) -> Callable[[], object]:
        """Return one call."""
        return lambda: of(x)

    with torch.no_grad():
        taken = in_turns(
            {"dense": run(layer)} | {name: run(of) for name, of in ways.items()}, seconds=seconds
        )
    return summary(taken)


def summary(taken: Mapping[str, list[float]], /) -> Timed:
    """Return medians, and medians of the ratios to the dense time of the same round.

    Load on the machine slows neighbours in time alike, so the ratio is steadier than the times are.

    Example:
        >>> summary({"dense": [2.0, 4.0], "kernel": [1.0, 2.0]}).ratios
        {'dense': 1.0, 'kernel': 0.5}
    """
    dense = np.array(taken["dense"])
    return Timed(
        seconds={name: float(np.median(times)) for name, times in taken.items()},
        ratios={name: float(np.median(np.array(times) / dense)) for name, times in taken.items()},
    )


def fastest(time_: Timed, allowed: Sequence[str], /) -> str:
    """Return the fastest of the ways that are allowed; dense, if allowed, where none is clearly faster.

    Example:
        >>> fastest(Timed({"dense": 1e-3}, {"dense": 1.0, "csr": 0.97, "kernel": 1.2}), ("dense", "csr"))
        'dense'
    """
    found = min(allowed, key=lambda name: time_.ratios[name])
    ratio = time_.ratios[found]
    clearly = ratio <= BETTER and (1 - ratio) * time_.seconds["dense"] >= GAIN
    return found if clearly or "dense" not in allowed else "dense"


def shapes_of(model: nn.Module, inputs: Any, layers: Mapping[str, nn.Module], /) -> dict[str, list[Any]]:
    """Return the shapes that each layer is fed, one for each call, in the order of the calls.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> shapes_of(model, torch.ones(5, 3), {"0": model[0]})
        {'0': [(5, 3)]}
    """
    return {name: [tuple(x.shape) for x in fed] for name, fed in _fed(model, inputs, layers).items()}


def link_(model: nn.Module, inputs: Any, /) -> list[str]:
    """Let neighbours hand outputs on feature by feature, and return the names of the layers that do.

    A layer's outputs stay turned where another one that the kernel multiplies takes them so: then nothing
    between them minds. It is tried one by one on the inputs, and undone where the model stops running.

    Args:
        model: With layers that use their zeros.
        inputs: What to call it with; two samples at least.

    Example:
        >>> chain = [SparseLayer(nn.Linear(3, 3).eval(), {1: "kernel"}) for _ in range(2)]
        >>> link_(nn.Sequential(chain[0], nn.ReLU(), chain[1]), torch.ones(4, 3))
        ['0']
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer) and not m.convolves}
    linked: list[str] = []
    taken = _turned(model, inputs, layers)
    for name, layer in layers.items():
        layer.turned = True
        try:
            now = _turned(model, inputs, layers)
        except (RuntimeError, ValueError):  # a view of memory that must lie side by side
            now = taken
        layer.turned = len(now) > len(taken)
        if layer.turned:
            linked, taken = [*linked, name], now
    return linked


def _turned(model: nn.Module, inputs: Any, layers: Mapping[str, SparseLayer]) -> set[tuple[str, int]]:
    """Return the layers and calls that are fed feature by feature and multiply by the kernel."""
    return {
        (name, number)
        for name, fed in _fed(model, inputs, layers).items()
        for number, x in enumerate(fed)
        if x.numel() > x.shape[-1] > 1 and x.stride(-1) != 1
        if layers[name].way(x.numel() // x.shape[-1]) == "kernel"
        if x.reshape(-1, x.shape[-1]).stride(0) == 1
    }


def _fed(model: nn.Module, inputs: Any, layers: Mapping[str, nn.Module]) -> dict[str, list[Tensor]]:
    """Return what each layer is fed, without what is in it."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def hook(name: str) -> Callable[..., None]:
        """Return a hook that keeps shape and strides: a meta tensor has no memory."""

        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            found[name].append(torch.empty_strided(x.shape, x.stride(), device="meta", dtype=x.dtype))

        return see

    handles = [m.register_forward_pre_hook(hook(name), with_kwargs=True) for name, m in layers.items()]
    try:
        with evaluating(model):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
