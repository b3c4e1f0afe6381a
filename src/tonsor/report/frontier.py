"""The candidates of a search: metric against bytes or time, the frontier, the limits and the pick."""

from collections.abc import Mapping
from typing import Any

from tonsor.report.front import rising
from tonsor.report.svg import ACCENT, COLOURS, INK, WIDTH, drawing, grid, to_svg

FADED = 0.35


def budget_plot(figures: Mapping[str, Any], /, *, measure: str = "metric") -> str:
    """Draw every candidate's metric against its bytes, or its time where only that was limited.

    Args:
        figures: `rows` and `dense` with `metric`, `bytes` and `latency_ms` each, `frontier` (names), `pick`,
            and `limits` (`max_bytes`, `latency_ms`, `max_fall`, each None where there is none).
        measure: What the metric is called.

    Returns:
        SVG text.

    Example:
        >>> row = {"name": "a", "metric": 0.9, "bytes": 1000, "latency_ms": 1.0}
        >>> limits = {"max_bytes": 1200, "latency_ms": None, "max_fall": 0.5}
        >>> budget_plot({"rows": [row], "dense": row, "frontier": ["a"], "pick": row, "limits": limits})[:5]
        '<svg '
    """
    rows, limits, pick, dense = (figures[key] for key in ("rows", "limits", "pick", "dense"))
    is_time = limits["max_bytes"] is None and limits["max_fall"] is None
    cost, label = ("latency_ms", "milliseconds a call") if is_time else ("bytes", "bytes of the file")
    bound = limits["latency_ms"] if is_time else limits["max_bytes"]
    best = sorted((row for row in rows if row["name"] in figures["frontier"]), key=lambda row: row[cost])
    with drawing(WIDTH, 3.2) as figure:
        axes = figure.add_subplot()
        axes.axhline(dense["metric"], color=COLOURS["dense"], linewidth=1.0, label="dense")
        if limits["max_fall"] is not None:
            lowest = dense["metric"] - limits["max_fall"] / 100
            axes.axhline(lowest, color=COLOURS["masked"], linewidth=1.0, linestyle="--", label="limit")
        if bound is not None:
            name = None if limits["max_fall"] is not None else "limit"
            axes.axvline(bound, color=COLOURS["masked"], linewidth=1.0, linestyle="--", label=name)
        line = rising(best, cost, "metric")  # the frontier of several costs holds others, too
        axes.plot([row[cost] for row in line], [row["metric"] for row in line], color=ACCENT, linewidth=1.2)
        kinds = ((rows, INK, FADED, "candidate"), (best, COLOURS["shrunk"], 1.0, "frontier"))
        for of, colour, alpha, name in kinds:
            places = [row[cost] for row in of], [row["metric"] for row in of]
            axes.scatter(*places, s=16, color=colour, alpha=alpha, label=name, zorder=2)
        axes.scatter(
            pick[cost], pick["metric"], s=90, marker="*", color=COLOURS["packed"], label="pick", zorder=3
        )
        axes.set(xlabel=label, ylabel=measure, xscale="log")
        _ticks(axes, max(row[cost] for row in rows) / min(row[cost] for row in rows))
        heights = [dense["metric"], pick["metric"], *(row["metric"] for row in best)]
        span = max(heights) - min(heights) or 0.01  # what is far below the frontier would flatten all else
        axes.set_ylim(min(heights) - 0.25 * span, max(heights) + 0.1 * span)
        axes.legend(loc="lower right")
        grid(axes, axis="both")
        told = f"{measure} {pick['metric']:.4f} with {pick['bytes']:,} bytes, {pick['latency_ms']:.3g} ms"
        return to_svg(figure, "frontier", f"{measure} of {len(rows)} candidates; picked: {told}")


def _ticks(axes: Any, ratio: float) -> None:
    """Write numbers in full along a logarithmic axis, so many that they do not touch."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    parts = (1.0,) if ratio > 300 else (1.0, 2.0, 5.0) if ratio > 8 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=parts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
