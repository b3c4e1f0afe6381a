"""Plots of the states of a model measured together: time by batch, and what accuracy costs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tonsor.report import readable
from tonsor.report.compare import batches
from tonsor.report.svg import COLOURS, INK, WIDTH, drawing, grid, plain_log, to_svg

# Another form for each state, for those who see no colour, and open, so that one on another is seen.
FORMS = dict(zip(COLOURS, "osD^vP", strict=True))
CAPTIONS = {
    "latency_by_batch": "The time of a forward pass by the number of samples in it: the median, with "
    "whiskers from the 10th to the 90th percentile. All states took turns in one run.",
    "accuracy_by_cost": "Up and to the left is better.",
}


class Point(NamedTuple):
    """Where a model stands: its cost and its accuracy.

    Example:
        >>> Point("dense", 100.0, 0.9).name
        'dense'
    """

    name: str
    cost: float
    accuracy: float


def latency_by_batch(comparison: Mapping[str, Any], /) -> str:
    """Draw the time of a forward pass by batch size, with its spread, a line for each state.

    Args:
        comparison: The content of a `compare.json`.

    Returns:
        SVG text; empty where no time was measured.

    Example:
        >>> latency_by_batch({"models": {}})
        ''
    """
    models = {state: of for state, of in comparison.get("models", {}).items() if of.get("latency_ms")}
    sizes = batches(comparison)
    if not models or not sizes:
        return ""
    with drawing(WIDTH, 3.4) as figure:
        axes = figure.add_subplot()
        for number, (state, model) in enumerate(models.items()):
            aside = 0.09 * (number - (len(models) - 1) / 2)  # whiskers side by side
            _times(axes, state, [model["latency_ms"].get(size) for size in sizes], aside)
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlim(-0.45, len(sizes) - 0.55)
        axes.set(xlabel="samples in a batch", ylabel="milliseconds a batch (log)")
        grid(axes)
        figure.legend(loc="outside lower center", ncols=3)
        words = [
            f"{state} {', '.join(_in_words(size, of) for size, of in model['latency_ms'].items())}"
            for state, model in models.items()
        ]
        return to_svg(figure, "latency_by_batch", f"Latency by batch: {'; '.join(words)}")


def accuracy_by_cost(comparison: Mapping[str, Any], /) -> str:
    """Draw the metric over the size of the file, and over the time of the largest batch.

    Args:
        comparison: The content of a `compare.json`.

    Returns:
        SVG text; empty where no accuracy was measured.

    Example:
        >>> accuracy_by_cost({"models": {}})
        ''
    """
    models, sizes = comparison.get("models", {}), batches(comparison)
    metric = comparison.get("metric") or "metric"
    costs = {"bytes of the file (log)": lambda model: model.get("bytes")}
    if sizes:
        title = f"ms, batch {sizes[-1]} (log)"
        costs[title] = lambda model: model.get("latency_ms", {}).get(sizes[-1], {}).get("median")
    panels = {title: _points(models, cost, metric) for title, cost in costs.items()}
    panels = {title: points for title, points in panels.items() if points}
    if not panels:
        return ""
    with drawing(WIDTH, 3.1) as figure:
        for place, axes in enumerate(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]):
            title, points = list(panels.items())[place]
            _scatter(axes, points, named=place == 0)
            axes.set_xlabel(title)
            if place == 0:
                axes.set_ylabel(f"{metric} (%)" if metric == "accuracy" else metric)
        figure.legend(loc="outside lower center", ncols=3)
        words = [f"{title}: {', '.join(_at(p) for p in points)}" for title, points in panels.items()]
        return to_svg(figure, "accuracy_by_cost", f"{metric} over {'; '.join(words)}")


def _times(axes: Any, state: str, times: Sequence[Mapping[str, float] | None], aside: float) -> None:
    """Draw one state's times."""
    known = [(place, of) for place, of in enumerate(times) if of]
    medians = [of["median"] for _, of in known]
    reach = [
        [of["median"] - of["low"] for _, of in known],
        [of["high"] - of["median"] for _, of in known],
    ]
    axes.errorbar(
        [place + aside for place, _ in known],
        medians,
        yerr=reach,
        color=COLOURS.get(state, INK),
        marker=FORMS.get(state, "o"),
        markersize=5,
        markerfacecolor="none",
        linewidth=0.7,
        elinewidth=1.3,
        capsize=2,
        label=state,
    )


def _points(models: Mapping[str, Any], cost: Any, metric: str) -> list[Point]:
    """Return where each model stands, as far as it is known."""
    factor = 100.0 if metric == "accuracy" else 1.0
    found = ((state, cost(model), model.get("accuracy")) for state, model in models.items())
    return [Point(name, x, factor * y) for name, x, y in found if x is not None and y is not None]


def _scatter(axes: Any, points: Sequence[Point], *, named: bool) -> None:
    """Draw points, each in its colour and form."""
    for point in points:
        axes.plot(
            point.cost,
            point.accuracy,
            color=COLOURS.get(point.name, INK),
            marker=FORMS.get(point.name, "o"),
            markersize=7,
            markerfacecolor="none",
            markeredgewidth=1.6,
            linestyle="none",
            label=point.name if named else None,
        )
    axes.set_xscale("log")
    axes.margins(0.14)
    plain_log(axes.xaxis)
    grid(axes, axis="both")


def _in_words(size: str, of: Mapping[str, float]) -> str:
    """Return one time."""
    return f"{readable.milliseconds(of['median'])} at {size}"


def _at(point: Point) -> str:
    """Return one point."""
    return f"{point.name} {readable.digits(point.accuracy)} at {readable.digits(point.cost)}"
