"""Measure the states of one model together: how large, how fast, how much memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tonsor.report.measure import latency, size
from tonsor.report.memory import activation_bytes, weight_bytes

Given = Tensor | tuple[Any, ...]


def measure_states(
    models: Mapping[str, nn.Module],
    inputs: Given,
    /,
    *,
    batches: Sequence[int] = (1, 8, 64),
    rounds: int = 50,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure what each model costs, all in one run on one device.

    Args:
        models: Models by name, all on the device of the inputs; left as they were.
        inputs: One tensor or a tuple of positional arguments, each with the batch first.
        batches: Batch sizes, each at least 1; the inputs' rows are repeated or cut to fit.
        rounds: Timed calls a model and batch size, at least 1; more gives steadier figures.
        known: Figures by model that stand in place of those counted here: what is no torch parameter, or
            runs outside torch, cannot be counted from here. None where there is no figure.

    Returns:
        For each model `parameters`, `nonzeros` and `macs` as `size` counts them, `weight_bytes` and, by batch
        size (as text), `activation_bytes`, `latency_ms` as `latency` takes it, and `samples_per_second`: the
        batch over the latency, with spread and ratio as there.

    Raises:
        ValueError: If a batch size or `rounds` is below 1.

    Example:
        >>> import torch
        >>> figures = measure_states({"dense": nn.Linear(3, 2)}, torch.ones(1, 3), batches=(4,), rounds=5)
        >>> {key: value for key, value in figures["dense"].items() if isinstance(value, int)}
        {'parameters': 8, 'nonzeros': 8, 'macs': 6, 'weight_bytes': 32}
        >>> figures["dense"]["activation_bytes"]
        {'4': 32}
        >>> figures["dense"]["samples_per_second"]["4"]["median"] > 0
        True
    """
    times = latency(models, inputs, batches=batches, rounds=rounds)
    return {
        name: {
            **size(model, inputs),
            "weight_bytes": weight_bytes(model),
            "activation_bytes": activation_bytes(model, inputs, batches=batches),
            "latency_ms": times[name],
            "samples_per_second": _throughput(times[name]),
            **(known or {}).get(name, {}),
        }
        for name, model in models.items()
    }


def _throughput(times: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return samples a second from milliseconds a batch; what is low in the one is high in the other."""
    ends = {"median": "median", "low": "high", "high": "low"}
    ratios = {"ratio": "ratio", "ratio_low": "ratio_high", "ratio_high": "ratio_low"}
    return {
        batch: {end: 1000 * int(batch) / of[other] for end, other in ends.items()}
        | {end: 1 / of[other] for end, other in ratios.items()}
        for batch, of in times.items()
    }
