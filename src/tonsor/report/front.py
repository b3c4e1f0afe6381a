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
    return [point["name"] for point in rising(points, "latency_ms", "accuracy")]


def rising(points: Sequence[Mapping[str, Any]], cost: str, gain: str, /) -> list[Mapping[str, Any]]:
    """Return the points that none as cheap beats, the cheapest first.

    Args:
        points: Figures by name.
        cost: The figure of which less is better.
        gain: The figure of which more is better; it rises from point to point.

    Example:
        >>> points = [{"ms": 4, "r2": 0.9}, {"ms": 2, "r2": 0.9}, {"ms": 1, "r2": 0.5}]
        >>> rising(points, "ms", "r2")
        [{'ms': 1, 'r2': 0.5}, {'ms': 2, 'r2': 0.9}]
    """
    found: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda p: (p[cost], -p[gain])):
        if not found or point[gain] > found[-1][gain]:
            found.append(point)
    return found


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
    line = rising(points, "latency_ms", "accuracy")
    best = [point["name"] for point in line]
    with drawing(WIDTH, 3.2) as figure:
        axes = figure.add_subplot()
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
