"""Plot of a sensitivity scan: what the model loses with one weight pruned at a time."""

from collections.abc import Mapping
from typing import Any

from tonsor.report import readable
from tonsor.report.svg import INK, WIDTH, drawing, grid, numbers, to_svg

NAMED = 6  # weights that get a colour and a name: those that hurt first
# Okabe and Ito's, apart for colour-blind readers, with a dash each for those who see no colour.
LINES = (
    ("#d55e00", "-"),
    ("#0072b2", (0, (5, 1.5))),
    ("#009e73", (0, (1.5, 1))),
    ("#b5579c", (0, (6, 1.5, 1.5, 1.5))),
    ("#c98c00", "-"),
    ("#3f9fd4", (0, (3, 1))),
)


def sensitivities(report: Mapping[str, Any], /) -> str:
    """Draw the metric over the sparsity of one weight at a time, the others dense.

    Args:
        report: The content of a `report.json`; the part `sensitivity` is what `tonsor inspect sensitivity`
            wrote.

    Returns:
        SVG text; empty where there was no scan.

    Example:
        >>> sensitivities({})
        ''
    """
    scan = report.get("sensitivity") or {}
    weights = scan.get("weights", {})
    if not weights:
        return ""
    metric, dense = scan.get("metric", "metric"), scan.get("dense", {})
    key = "accuracy" if "accuracy" in dense else "loss"
    factor = 100.0 if metric == "accuracy" and key == "accuracy" else 1.0
    order = sorted(
        weights, key=lambda name: -sum(numbers(weights[name]["loss"])) / len(weights[name]["loss"])
    )
    with drawing(WIDTH, 3.3) as figure:
        axes = figure.add_subplot()
        axes.axhline(dense[key] * factor, color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (3, 3)))
        for place, name in reversed(list(enumerate(order))):
            _line(axes, place, name, weights[name], key, factor)
        axes.set_xlabel("zeros in one weight (%), the others dense")
        unit = " (%)" if factor > 1 else ""
        axes.set_ylabel((metric if key == "accuracy" else "loss") + unit)
        axes.set_xlim(0, 100)
        grid(axes)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, handlelength=3)
        return to_svg(figure, "sensitivities", _in_words(order, weights, key, metric))


def _line(axes: Any, place: int, name: str, of: Mapping[str, Any], key: str, factor: float) -> None:
    """Draw one weight: in a colour of its own where it is among those that hurt first."""
    x = [100 * removed / of["size"] for removed in of["removed"]]
    y = numbers(of[key]) * factor
    if place >= NAMED:
        axes.plot(x, y, color=INK, alpha=0.35, linewidth=0.8)
        return
    colour, dash = LINES[place]
    label = name if len(name) <= 30 else f"{name[:10]}…{name[-19:]}"
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=3, label=label)


def _in_words(order: list[str], weights: Mapping[str, Any], key: str, metric: str) -> str:
    """Return what the plot shows: how each of the first weights ends."""
    name = metric if key == "accuracy" else ""
    ends = [
        f"{weight} {readable.metric(weights[weight][key][-1], name)}"
        f" at {readable.percent(weights[weight]['sparsity'][-1])}"
        for weight in order[:NAMED]
    ]
    return f"{name or 'loss'} with one weight pruned at a time; most sensitive first: {', '.join(ends)}"
