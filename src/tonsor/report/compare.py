"""Put several runs side by side."""

from collections.abc import Mapping
from typing import Any

MEASURES = ("accuracy", "loss", "parameters", "nonzeros", "bytes", "macs")


def compare(reports: Mapping[str, Mapping[str, Any]], /) -> list[dict[str, Any]]:
    """Return one row for each run and each state of its model.

    All rows have the same keys, so that they make a table: `run`, `model`, `metric`, the measures
    (`accuracy` holds the value of whatever the metric is) and `latency_ms_B`, the median for batches of
    B. What a run did not measure is None.

    Args:
        reports: The contents of each run's `report.json`, by the name to show.

    Returns:
        The rows, in the order of the runs and of their states, as dense, masked, shrunk.

    Raises:
        ValueError: If a report holds no models.

    Example:
        >>> small = {"accuracy": 0.97, "parameters": 210, "latency_ms": {"1": {"median": 0.5}}}
        >>> for row in compare({"a": {"metric": "accuracy", "models": {"shrunk": small}}}):
        ...     print(row["run"], row["model"], row["accuracy"], row["loss"], row["latency_ms_1"])
        a shrunk 0.97 None 0.5
    """
    for run, report in reports.items():
        if not report.get("models"):
            raise ValueError(
                f"report.compare: '{run}' holds no models; expected the content of the report.json "
                "of a finished run"
            )
    known = sorted({batch for report in reports.values() for batch in batches(report)}, key=int)
    return [
        _row(run, report.get("metric"), state, model, known)
        for run, report in reports.items()
        for state, model in report["models"].items()
    ]


def batches(report: Mapping[str, Any], /) -> list[str]:
    """Return the batch sizes whose latency a report knows, ascending.

    Args:
        report: The content of a `report.json`.

    Returns:
        The sizes, as text.

    Example:
        >>> batches({"models": {"dense": {"latency_ms": {"64": {}, "1": {}}}}})
        ['1', '64']
    """
    models = report.get("models", {}).values()
    return sorted({batch for model in models for batch in model.get("latency_ms", {})}, key=int)


def _row(
    run: str, metric: str | None, state: str, model: Mapping[str, Any], known: list[str]
) -> dict[str, Any]:
    """Return the row of one state of one run's model."""
    times = model.get("latency_ms", {})
    return {
        "run": run,
        "model": state,
        "metric": metric,
        **{measure: model.get(measure) for measure in MEASURES},
        **{f"latency_ms_{batch}": times.get(batch, {}).get("median") for batch in known},
    }
