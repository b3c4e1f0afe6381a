"""Accuracy against time: which of many small models are worth having."""

from collections.abc import Mapping, Sequence
from typing import Any

from tonsor.report.svg import ACCENT, COLOURS, INK, WIDTH, drawing, grid, to_svg


def front(points: Sequence[Mapping[str, Any]], /) -> list[str]:
    """Return the names of the points that no other one beats in both accuracy and time, fastest first.

    Args:
        points: Each with `name`, `accuracy` (higher is better) and `latency_ms` (lower is better).

    Returns:
        The names; of two equal points the first.

    Example:
        >>> points = [{"name": "dense", "accuracy": 0.9, "latency_ms": 4.0},
        ...           {"name": "half", "accuracy": 0.9, "latency_ms": 2.0},
        ...           {"name": "worse", "accuracy": 0.8, "latency_ms": 3.0}]
        >>> front(points)
        ['half']
    """
    found: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda p: (p["latency_ms"], -p["accuracy"])):
        if not found or point["accuracy"] > found[-1]["accuracy"]:
            found.append(point)
    return [point["name"] for point in found]


def front_plot(points: Sequence[Mapping[str, Any]], /, *, measure: str = "accuracy") -> str:
    """Draw accuracy against time, with a line through the points that no other one beats.

    Args:
        points: As `front` takes them.
        measure: What the accuracy is called.

    Returns:
        SVG text; empty where there is no point.

    Example:
        >>> front_plot([])
        ''
        >>> front_plot([{"name": "dense", "accuracy": 0.9, "latency_ms": 4.0}])[:5]
        '<svg '
    """
    if not points:
        return ""
    best = front(points)
    with drawing(WIDTH, 3.2) as figure:
        axes = figure.add_subplot()
        line = [next(point for point in points if point["name"] == name) for name in best]
        axes.plot(
            [p["latency_ms"] for p in line],
            [p["accuracy"] for p in line],
            color=ACCENT,
            linewidth=1.2,
            zorder=1,
        )
        for point in points:
            colour = COLOURS["shrunk"] if point["name"] in best else INK
            axes.scatter(point["latency_ms"], point["accuracy"], s=18, color=colour, zorder=2)
            axes.annotate(
                point["name"],
                (point["latency_ms"], point["accuracy"]),
                xytext=(4, -10),
                textcoords="offset points",
                fontsize=8.5,
            )
        axes.set(xlabel="milliseconds a call", ylabel=measure)
        axes.margins(0.12)
        grid(axes, axis="both")
        return to_svg(figure, "front", f"{measure} against milliseconds a call; best: {', '.join(best)}")
