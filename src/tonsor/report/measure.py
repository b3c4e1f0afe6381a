"""Measure a model: its parameters, its work for one sample, its time for one batch."""

import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tonsor.modes import evaluating, rows
from tonsor.tensors import distinct

WARM_UP = 3  # rounds before the clock counts: first calls load kernels and allocate


def size(model: nn.Module, inputs: Tensor | tuple[Any, ...], /) -> dict[str, int]:
    """Count parameters, the nonzero ones among them, and multiply-accumulates for one sample.

    Counted are the products of linear layers, convolutions, recurrent cells, attention and every other
    matrix product, with zeros counted like any other weight: a mask alone saves no work. Not counted
    are elementwise operations, normalisations, look-ups, `torch.nn.Bilinear` and custom kernels. The
    model runs once, in evaluation mode, and is left as it was.

    Args:
        model: The model; tied parameters count once.
        inputs: One tensor or a tuple of positional arguments, each with the batch first.

    Returns:
        `parameters`, `nonzeros` and `macs`.

    Example:
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
        >>> size(layer, torch.ones(8, 3))
        {'parameters': 6, 'nonzeros': 3, 'macs': 6}
    """
    parameters = distinct(model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "nonzeros": sum(int(parameter.count_nonzero()) for parameter in parameters),
        "macs": _macs(model, rows(inputs, 1)),
    }


def latency(
    models: Mapping[str, nn.Module],
    inputs: Tensor | tuple[Any, ...],
    /,
    *,
    batches: Sequence[int] = (1, 64),
    rounds: int = 30,
) -> dict[str, dict[str, dict[str, float]]]:
    """Time one forward pass of each model, in milliseconds, in one run.

    The models take turns, in an order drawn anew each round, so that a busy machine, and what the one before
    left in the caches, hit all alike. What is timed is the eager call with the threads torch is set to use,
    after three rounds to warm up.

    Args:
        models: Models by name, all on the device of the inputs; left as they were.
        inputs: One tensor or a tuple of positional arguments, each with the batch first.
        batches: Batch sizes, each at least 1; the inputs' rows are repeated or cut to fit.
        rounds: Timed calls a model and batch size, at least 1; more gives steadier figures.

    Returns:
        By model and batch size (as text): `median`, `low` and `high`, the 10th and 90th percentile; and
        `ratio`, `ratio_low`, `ratio_high`, the same of its time over the first model's in the same round. The
        ratio is steadier where the machine is busy by turns.

    Raises:
        ValueError: If a batch size or `rounds` is below 1.

    Example:
        >>> times = latency({"dense": nn.Linear(3, 2)}, torch.ones(1, 3), batches=(1, 4), rounds=5)
        >>> list(times["dense"])
        ['1', '4']
        >>> times["dense"]["4"]["low"] <= times["dense"]["4"]["median"] <= times["dense"]["4"]["high"]
        True
    """
    if rounds < 1 or any(batch < 1 for batch in batches):
        got = f"rounds={rounds}, batches={tuple(batches)}"
        raise ValueError(f"report.latency: rounds and batches must be at least 1; got {got}")
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        times = [_take_turns(models, rows(inputs, batch), rounds) for batch in batches]
    return {
        name: {
            str(batch): _spread(of[name], of[next(iter(of))])
            for batch, of in zip(batches, times, strict=True)
        }
        for name in models
    }


def _macs(model: nn.Module, sample: tuple[Any, ...]) -> int:
    """Return the multiply-accumulates of one call, every fused kernel opened so that none is missed."""
    from torch.utils.flop_counter import FlopCounterMode

    with evaluating(model), _opened(), FlopCounterMode(display=False) as counter:
        model(*sample)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _opened() -> Iterator[None]:
    """Switch fused LSTM and attention kernels off, which the counter would take for nothing."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # torch tells of a setting for graphics cards that are not there
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def _take_turns(
    models: Mapping[str, nn.Module], sample: tuple[Any, ...], rounds: int
) -> dict[str, list[float]]:
    """Return the milliseconds of each model's calls, the models called in turn."""
    times: dict[str, list[float]] = {name: [] for name in models}
    draw = random.Random(0)
    for _ in range(WARM_UP + rounds):
        for name in draw.sample(list(models), len(models)):
            times[name].append(_milliseconds(models[name], sample))
    return {name: taken[WARM_UP:] for name, taken in times.items()}


def _milliseconds(model: nn.Module, sample: tuple[Any, ...]) -> float:
    """Return the time of one call, the device waited for."""
    away = any(isinstance(x, Tensor) and x.device.type != "cpu" for x in sample)
    if away:
        torch.accelerator.synchronize()
    start = time.perf_counter()
    model(*sample)
    if away:
        torch.accelerator.synchronize()
    return (time.perf_counter() - start) * 1000


def _spread(values: Sequence[float], first: Sequence[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile, of times and of their ratios to the first model's."""
    found: dict[str, float] = {}
    ratios = np.divide(values, first)
    for median, taken in (("median", values), ("ratio", ratios)):
        before = "" if median == "median" else f"{median}_"
        low, middle, high = np.percentile(taken, [10, 50, 90])
        found |= {median: float(middle), f"{before}low": float(low), f"{before}high": float(high)}
    return found
