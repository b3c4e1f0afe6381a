"""Several runs side by side as one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from tonsor.report import readable
from tonsor.report.svg import COLOURS, INK, WIDTH, drawing, grid, plain_log, to_svg
from tonsor.report.template import filled, marked

FORMS = "osD^vPX*<>"  # one for each run; more begin again
TITLES = {
    "run": "run",
    "model": "state",
    "accuracy": "",
    "loss": "loss",
    "parameters": "parameters",
    "nonzeros": "nonzero",
    "bytes": "file",
    "macs": "MACs",
}
WRITERS = {
    "loss": readable.digits,
    "parameters": readable.count,
    "nonzeros": readable.count,
    "bytes": readable.size,
    "macs": readable.count,
}


def render_runs(rows: Sequence[Mapping[str, Any]], /) -> str:
    """Write runs side by side as one HTML file: no network, no script, no font of its own.

    Args:
        rows: What `compare` returned.

    Returns:
        The whole page; all text is escaped.

    Raises:
        ModuleNotFoundError: If jinja2 or matplotlib is missing: says how to install them.

    Example:
        >>> page = render_runs([{"run": "runs/a", "model": "dense", "metric": "r2", "accuracy": 0.5}])
        >>> "<td>runs/a</td>" in page, "<td>0.500</td>" in page
        (True, True)
    """
    known = list(dict.fromkeys(key for row in rows for key in row if key != "metric"))
    metrics = sorted({row["metric"] for row in rows if row.get("metric")})
    return filled(
        "runs.html.jinja",
        "runs compared",
        titles=[_title(key, metrics) for key in known],
        rows=[(row["model"], [_written(key, row) for key in known]) for row in rows],
        runs=list(dict.fromkeys(row["run"] for row in rows)),
        plots=marked({"runs": runs_plot(rows)}, {"runs": "Colours are states, forms are runs."}),
    )


def runs_plot(rows: Sequence[Mapping[str, Any]], /) -> str:
    """Draw the metric over the size of the file: a colour for each state, a form for each run.

    Args:
        rows: What `compare` returned.

    Returns:
        SVG text; empty where nothing is known, or the runs have no metric in common.

    Example:
        >>> runs_plot([])
        ''
    """
    points = [row for row in rows if row.get("bytes") and row.get("accuracy") is not None]
    metrics = {row.get("metric") for row in points}
    if len(metrics) != 1:
        return ""
    (metric,) = metrics
    factor, unit = (100, " (%)") if metric == "accuracy" else (1, "")
    forms = {run: FORMS[n % len(FORMS)] for n, run in enumerate(dict.fromkeys(row["run"] for row in points))}
    with drawing(WIDTH, 3.2 + 0.2 * len(forms)) as figure:
        axes = figure.add_subplot()
        for row in points:
            _mark(
                axes,
                row["bytes"],
                factor * row["accuracy"],
                COLOURS.get(row["model"], INK),
                forms[row["run"]],
            )
        axes.set_xscale("log")
        axes.set(xlabel="bytes of the file (log)", ylabel=f"{metric or 'metric'}{unit}")
        axes.margins(0.1)
        plain_log(axes.xaxis)
        grid(axes, axis="both")
        states = dict.fromkeys(row["model"] for row in points)
        named = [_mark(axes, [], [], COLOURS.get(state, INK), "s") for state in states]
        named += [_mark(axes, [], [], INK, form) for form in forms.values()]
        figure.legend(named, [*states, *map(_short, forms)], loc="outside lower center", ncols=2)
        words = ", ".join(f"{row['run']} {row['model']} {readable.digits(row['accuracy'])}" for row in points)
        return to_svg(figure, "runs", f"{metric or 'metric'} by size of the file: {words}")


def _mark(axes: Any, x: Any, y: Any, colour: str, form: str) -> Any:
    """Draw one open mark."""
    style = {"markersize": 7, "markerfacecolor": "none", "markeredgewidth": 1.6, "linestyle": "none"}
    return axes.plot(x, y, color=colour, marker=form, **style)[0]


def _title(key: str, metrics: Sequence[str]) -> str:
    """Return the head of a column."""
    if key.startswith("latency_ms_"):
        return f"ms, batch {key.removeprefix('latency_ms_')}"
    return TITLES.get(key, key) or " / ".join(metrics) or "metric"


def _written(key: str, row: Mapping[str, Any]) -> str:
    """Return a cell."""
    value = row.get(key)
    if value is None:
        return "\N{EN DASH}"
    if key == "accuracy":
        return readable.metric(value, row.get("metric") or "")
    return WRITERS.get(key, readable.digits)(value) if isinstance(value, (int, float)) else str(value)


def _short(name: str) -> str:
    """Return a name with its beginning left out where it is long."""
    return name if len(name) <= 30 else f"…{name[-29:]}"
