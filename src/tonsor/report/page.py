"""One run as one HTML page that needs nothing else."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

from tonsor.report import readable
from tonsor.report.compare import batches
from tonsor.report.svg import COLOURS
from tonsor.report.trusted import sentences

Write: TypeAlias = Callable[[Any], str]  # a figure, for people
Note: TypeAlias = Callable[[Any, Any], str]  # how a figure differs from the dense model's

CAPTIONS = {
    "sizes": "What the model costs before pruning, with its weights set to zero, and with the zeros removed. "
    "Whiskers reach from the 10th to the 90th percentile.",
    "curves": "Loss, metric and sparsity over the stages, laid end to end.",
    "norms": "The norm of the gradient at each step, before clipping, and the threshold it was clipped to.",
    "wire": "What each worker sent of its gradients, what it holds back for later steps, and where the time "
    "went; sending includes the wait for the slowest worker.",
    "sparsities": "The share of weights that pruning set to zero, by layer.",
    "sensitivities": "The model with one weight pruned at a time and the others dense, on data it was not "
    "trained on. The broken line is the dense model.",
    "histograms": "How the weights of each layer are spread before pruning, and those that are left after.",
}

TRUST = {  # plots of the part that compares the pruned model with the dense one in depth
    "class_recalls": "The share of each class that is recognised. The class that lost most beside the mean "
    "stands first.",
    "robust_curves": "The same samples for both models, with noise and the like at five strengths, and "
    "under an attack on each model by itself.",
    "explanation_bars": "Whether both models' answers rest on the same inputs, sample by sample: the median "
    "and, as a bar, the 10th to the 90th percentile. Overlap is that of the most important tenth.",
    "exemplar_pictures": "Samples that only the dense model gets right: class → answer of the masked model "
    "(#place in the test data). The surest loss first.",
}
CAPTIONS |= TRUST

FILTERS = ("count", "size", "digits", "percent", "duration", "shape")


class Row(NamedTuple):
    """A line of the main table.

    Example:
        >>> Row("parameters", [Cell("10", ""), Cell("12", "+20.0 %")]).cells[1].note
        '+20.0 %'
    """

    name: str
    cells: list["Cell"]


class Cell(NamedTuple):
    """A figure of the main table, and by how much it differs from the dense model's.

    Example:
        >>> Cell("10", "").text
        '10'
    """

    text: str
    note: str


def render(report: Mapping[str, Any], /) -> str:
    """Write a run's report as one HTML file: no network, no script, no font of its own.

    Parts the report does not have are left out. All text is escaped.

    Args:
        report: The content of a `report.json`.

    Returns:
        The whole page.

    Raises:
        ModuleNotFoundError: If jinja2 or matplotlib is missing: says how to install them.

    Example:
        >>> page = render({"name": "digits", "metric": "accuracy", "models": {"dense": {"accuracy": 0.978}}})
        >>> "<h1>digits</h1>" in page, "97.8 %" in page
        (True, True)
    """
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "report: the page needs jinja2: pip install 'tonsor[report]'", name=error.name
        ) from error
    from tonsor.report import PLOTS  # here, because the room's table names this file's functions too

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters.update({name: getattr(readable, name) for name in FILTERS})
    drawn = {name: plot(report) for name, plot in PLOTS.items()}
    plots = [(name, Markup(svg), CAPTIONS.get(name, "")) for name, svg in drawn.items() if svg]
    template = files("tonsor.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return page.from_string(template).render(
        report=report,
        summary=summary(report),
        states=_states(report),
        rows=table(report),
        plots=[plot for plot in plots if plot[0] not in TRUST],
        trust=sentences(report.get("trust") or {}),
        trust_plots=[plot for plot in plots if plot[0] in TRUST],
        colours=COLOURS,
    )


def summary(report: Mapping[str, Any], /) -> str:
    """Say in a sentence or two what came out.

    Args:
        report: The content of a `report.json`.

    Returns:
        The text; empty where nothing was measured.

    Example:
        >>> dense, small = {"accuracy": 0.98, "parameters": 1000}, {"accuracy": 0.97, "parameters": 250}
        >>> print(summary({"metric": "accuracy", "models": {"dense": dense, "shrunk": small}}))
        The shrunk model has 250 parameters where the dense one has 1,000.
        Its accuracy is 97.0 %, the dense model has 98.0 %.
    """
    models, metric = report.get("models", {}), report.get("metric", "metric")
    states = _states(report)
    if not states:
        return ""
    last, dense = models[states[-1]], models.get("dense", {}) if len(states) > 1 else {}
    key = "nonzeros" if states[-1] == "masked" else "parameters"
    sentences = []
    if last.get(key) is not None:
        noun = "nonzero parameters" if key == "nonzeros" else "parameters"
        beside = f" where the dense one has {dense[key]:,}" if dense.get(key) is not None else ""
        sentences.append(f"The {states[-1]} model has {last[key]:,} {noun}{beside}.")
    if last.get("accuracy") is not None:
        before = dense.get("accuracy")
        beside = f", the dense model has {readable.metric(before, metric)}" if before is not None else ""
        sentences.append(f"Its {metric} is {readable.metric(last['accuracy'], metric)}{beside}.")
    return " ".join(sentences)


def table(report: Mapping[str, Any], /) -> list[Row]:
    """Return the lines of the main table: a quantity, and its figure for each state of the model.

    Args:
        report: The content of a `report.json`.

    Returns:
        One row for each quantity that any state has.

    Example:
        >>> table({"models": {"dense": {"macs": 1000}, "shrunk": {"macs": 1500}}})[0].cells
        [Cell(text='1,000', note=''), Cell(text='1,500', note='+50.0 %')]
    """
    metric = report.get("metric", "metric")
    models = [report["models"][state] for state in _states(report)]
    kinds: tuple[tuple[str, str, Write, Note], ...] = (
        (metric, "accuracy", lambda value: readable.metric(value, metric), _points(metric)),
        ("loss", "loss", readable.digits, _nothing),
        ("parameters", "parameters", readable.count, readable.change),
        ("nonzero parameters", "nonzeros", readable.count, readable.change),
        ("file", "bytes", readable.size, readable.change),
        ("MACs a sample", "macs", readable.count, readable.change),
    )
    rows = [_row(name, [m.get(key) for m in models], write, note) for name, key, write, note in kinds]
    for batch in batches(report):
        times = [model.get("latency_ms", {}).get(batch) for model in models]
        rows.append(_row(f"latency, batch {batch}", times, _median, _beyond_noise))
    return [row for row in rows if any(cell.text for cell in row.cells)]


def _states(report: Mapping[str, Any]) -> list[str]:
    """Return the states of the model that the report knows: dense, masked, shrunk, packed."""
    return [state for state in COLOURS if report.get("models", {}).get(state)]


def _row(name: str, values: list[Any], write: Write, note: Note) -> Row:
    """Return a line of the table; the first value is what the others are compared with."""
    cells = []
    for place, value in enumerate(values):
        text = "" if value is None else write(value)
        beside = place > 0 and value is not None and values[0] is not None
        cells.append(Cell(text, note(value, values[0]) if beside else ""))
    return Row(name, cells)


def _points(metric: str) -> Note:
    """Return what tells two accuracies apart, in points; other metrics speak for themselves."""

    def note(value: float, dense: float) -> str:
        points = round(100 * (value - dense), 1)
        return f"{points:+.1f} points".replace("-", readable.MINUS) if points else ""

    return note if metric == "accuracy" else _nothing


def _nothing(_: Any, __: Any) -> str:
    """Return no note."""
    return ""


def _median(times: Mapping[str, float]) -> str:
    """Return the median of a latency, written."""
    return readable.milliseconds(times["median"])


def _beyond_noise(times: Mapping[str, float], dense: Mapping[str, float]) -> str:
    """Return how a latency differs, or nothing where it lies within the spread of the dense model's."""
    within = dense["low"] <= times["median"] <= dense["high"]
    return "" if within else readable.change(times["median"], dense["median"])
