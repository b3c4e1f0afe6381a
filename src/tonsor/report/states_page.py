"""The states of a model, measured together, as one HTML page that needs nothing else."""

from collections.abc import Mapping
from typing import Any

from tonsor.report import readable
from tonsor.report.compare import batches
from tonsor.report.page import table
from tonsor.report.states_plots import CAPTIONS, accuracy_by_cost, latency_by_batch
from tonsor.report.template import filled, marked


def render_states(comparison: Mapping[str, Any], /) -> str:
    """Write what `tonsor compare` measured as one HTML file: no network, no script, no font of its own.

    Args:
        comparison: The content of a `compare.json`: `models` as in a `report.json`, with what
            `measure_states` returns, `made` and `file`; `layers`, `notes`, `settings`.

    Returns:
        The whole page; all text is escaped.

    Raises:
        ModuleNotFoundError: If jinja2 or matplotlib is missing: says how to install them.

    Example:
        >>> models = {"dense": {"accuracy": 0.978}}
        >>> page = render_states({"name": "a", "metric": "accuracy", "models": models})
        >>> "97.8 %" in page, "<svg" in page
        (True, False)
    """
    plots = {"latency_by_batch": latency_by_batch, "accuracy_by_cost": accuracy_by_cost}
    return filled(
        "states.html.jinja",
        f"{comparison.get('name') or 'run'} compared",
        comparison=comparison,
        states=list(comparison.get("models", {})),
        rows=table(comparison),
        summary=best(comparison),
        plots=marked({name: plot(comparison) for name, plot in plots.items()}, CAPTIONS),
    )


def best(comparison: Mapping[str, Any], /) -> str:
    """Say which state has the smallest file, and which is the fastest for each batch size.

    Args:
        comparison: The content of a `compare.json`.

    Returns:
        Sentences; empty where there are no two states.

    Example:
        >>> best({"models": {"dense": {"bytes": 2048}, "packed": {"bytes": 100}}})
        'The smallest file is that of packed: 100 B, 20.5 times smaller than dense.'
    """
    models = comparison.get("models", {})
    if len(models) < 2:
        return ""
    first = next(iter(models))
    sizes = {state: model["bytes"] for state, model in models.items() if model.get("bytes")}
    told = []
    if first in sizes:
        least = min(sizes, key=lambda state: sizes[state])
        factor = readable.digits(sizes[first] / sizes[least])
        told.append(
            f"The smallest file is that of {least}: {readable.size(sizes[least])}, "
            f"{factor} times smaller than {first}."
        )
    told += [_fastest(models, first, batch) for batch in batches(comparison)]
    return " ".join(filter(None, told))


def _fastest(models: Mapping[str, Any], first: str, batch: str) -> str:
    """Say which state is the fastest for a batch size; of those that are not clearly slower the first."""
    times = {
        s: m["latency_ms"][batch]
        for s, m in models.items()
        if "ratio" in m.get("latency_ms", {}).get(batch, {})
    }
    if first not in times:
        return ""
    best = min(taken["ratio"] for taken in times.values())
    least = next(state for state, taken in times.items() if taken["ratio_low"] <= best)
    if times[least]["ratio_high"] >= 1:
        return f"At batch {batch} none is clearly faster than {first}."
    factor = readable.digits(1 / times[least]["ratio"])
    time = readable.milliseconds(times[least]["median"])
    return f"At batch {batch} {least} is the fastest: {time}, {factor} times as fast as {first}."
