"""One run as one HTML page that needs nothing else."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from tonsor.report import readable
from tonsor.report.compare import batches
from tonsor.report.svg import COLOURS
from tonsor.report.template import filled, marked
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


class Row(NamedTuple):
    """A line of the main table.

    Example:
        >>> Row("parameters", [Cell("10", ""), Cell("12", "+20.0 %")]).cells[1].note
        '+20.0 %'
    """

    name: str
    cells: list["Cell"]


class Cell(NamedTuple):
    """A figure of the main table, by how much it differs from the dense model's, and how it is spread.

    Example:
        >>> Cell("10", "").text
        '10'
    """

    text: str
    note: str
    spread: str = ""


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
    from tonsor.report import PLOTS  # here, because the room's table names this file's functions too

    plots = marked({name: plot(report) for name, plot in PLOTS.items()}, CAPTIONS)
    return filled(
        "page.html.jinja",
        report.get("name") or "run",
        report=report,
        summary=summary(report),
        states=_states(report),
        rows=table(report),
        plots=[plot for plot in plots if plot[0] not in TRUST],
        trust=sentences(report.get("trust") or {}),
        trust_plots=[plot for plot in plots if plot[0] in TRUST],
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
        report: The content of a `report.json` or a `compare.json`.

    Returns:
        One row for each quantity that any state has.

    Example:
        >>> table({"models": {"dense": {"macs": 1000}, "shrunk": {"macs": 1500}}})[0].cells
        [Cell(text='1,000', note='', spread=''), Cell(text='1,500', note='+50.0 %', spread='')]
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
        ("weights in memory", "weight_bytes", readable.size, readable.change),
    )
    rows = [_row(name, [m.get(key) for m in models], write, note) for name, key, write, note in kinds]
    by_batch: tuple[tuple[str, str, Write, Note], ...] = (
        ("memory", "activation_bytes", readable.size, readable.change),
        ("latency", "latency_ms", lambda of: readable.milliseconds(of["median"]), _beyond_noise),
        ("samples a second", "samples_per_second", lambda of: readable.rate(of["median"]), _beyond_noise),
    )
    for name, key, write, note in by_batch:
        for batch in batches(report):
            values = [(model.get(key) or {}).get(batch) for model in models]
            if key == "activation_bytes":
                values = [_held(model, value) for model, value in zip(models, values, strict=True)]
            rows.append(_row(f"{name}, batch {batch}", values, write, note))
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
        spread = _spread(value, write) if isinstance(value, Mapping) else ""
        cells.append(Cell(text, note(value, values[0]) if beside else "", spread))
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


def _held(model: Mapping[str, Any], activations: int | None) -> int | None:
    """Return what weights and a pass hold together, where both are known."""
    weights = model.get("weight_bytes")
    return None if weights is None or activations is None else weights + activations


def _spread(of: Mapping[str, float], write: Write) -> str:
    """Return the 10th and the 90th percentile, written without the unit where it is the median's."""
    low, median, high = (write({"median": of[end]}).partition(" ") for end in ("low", "median", "high"))
    same = low[2] == median[2] == high[2]
    return "\N{EN DASH}".join(end[0] if same else "".join(end) for end in (low, high))


def _beyond_noise(times: Mapping[str, float], dense: Mapping[str, float]) -> str:
    """Return how a time or a speed differs; nothing where more than a round in ten went otherwise."""
    if "ratio" in times:
        return "" if times["ratio_low"] <= 1 <= times["ratio_high"] else readable.change(times["ratio"], 1)
    within = dense["low"] <= times["median"] <= dense["high"]
    return "" if within else readable.change(times["median"], dense["median"])
