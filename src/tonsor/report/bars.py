"""Plots of the model: sparsity and weights by layer, and the states side by side."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tonsor.report import readable
from tonsor.report.compare import batches
from tonsor.report.svg import COLOURS, INK, WIDTH, drawing, grid, to_svg

LAYERS = 30  # bars at most: the biggest layers of a long model
PANELS = 12  # histograms at most


def sparsities(report: Mapping[str, Any], /) -> str:
    """Draw the share of zero weights of each layer.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where there are no layers.

    Example:
        >>> sparsities({"layers": []})
        ''
    """
    layers = report.get("layers", [])
    if not layers:
        return ""
    chosen = _biggest(layers, LAYERS)
    shares = [100 * layer["sparsity"] for layer in chosen]
    names = [layer["name"] for layer in chosen]
    with drawing(WIDTH, 0.9 + 0.27 * len(chosen)) as figure:
        axes = figure.add_subplot()
        drawn = axes.barh(range(len(chosen)), shares, height=0.62, color=COLOURS["masked"])
        texts = [f"{readable.percent(share / 100)}" for share in shares]
        axes.bar_label(drawn, texts, padding=3, fontsize=9.5)
        axes.set_yticks(range(len(chosen)), [_short(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 116)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel(f"zero weights (%){_left_out(chosen, layers, 'layers')}")
        grid(axes, axis="x")
        words = (f"{name} {text}" for name, text in zip(names, texts, strict=True))
        return to_svg(figure, "sparsities", f"Share of zero weights by layer: {', '.join(words)}")


def histograms(report: Mapping[str, Any], /) -> str:
    """Draw how the weights of each layer are spread, before and after pruning.

    The height is that of the dense weights; a taller masked bar, as one that counts the zeros, is cut off.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where there are no histograms.

    Example:
        >>> histograms({})
        ''
    """
    known = report.get("histograms", {})
    if not known:
        return ""
    chosen = dict(sorted(known.items(), key=lambda item: -sum(item[1].get("dense", [])))[:PANELS])
    chosen = {name: known[name] for name in known if name in chosen}
    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    with drawing(WIDTH, 0.7 + 1.3 * lines) as figure:
        for number, (name, histogram) in enumerate(chosen.items()):
            _histogram(figure.add_subplot(lines, columns, number + 1), name, histogram)
        figure.supxlabel(f"weight{_left_out(chosen, known, 'layers')}", fontsize=10.5)
        figure.supylabel("weights in a bin", fontsize=10.5)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=2)
        label = f"Histograms of the weights, dense and masked, of {', '.join(chosen)}"
        return to_svg(figure, "histograms", label)


class Bars(NamedTuple):
    """One panel of `sizes`: a quantity of each state of the model.

    Example:
        >>> Bars("file", {"dense": 2048}, readable.size).write(2048)
        '2.00 KiB'
    """

    title: str
    values: dict[str, float]
    write: Callable[[float], str]
    spreads: dict[str, tuple[float, float]] | None = None  # low and high by state


def sizes(report: Mapping[str, Any], /) -> str:
    """Draw bytes, parameters, multiply-accumulates and latency of the model in each state.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where nothing was measured.

    Example:
        >>> sizes({"models": {}})
        ''
    """
    models = {state: report.get("models", {}).get(state) for state in COLOURS}
    panels = _panels({state: model for state, model in models.items() if model})
    if not panels:
        return ""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with drawing(WIDTH, 0.2 + 1.5 * lines) as figure:
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
        for number, panel in enumerate(panels):
            _draw_bars(figure.add_subplot(lines, columns, number + 1), panel)
        return to_svg(figure, "sizes", "; ".join(_in_words(panel) for panel in panels))


def _panels(models: Mapping[str, Mapping[str, Any]]) -> list[Bars]:
    """Return the panels for which there is anything to draw."""
    plain = (
        ("bytes", "File size", readable.size),
        ("parameters", "Parameters", readable.count),
        ("nonzeros", "Nonzero parameters", readable.count),
        ("macs", "MACs a sample", readable.count),
    )
    panels = [
        Bars(title, {state: m[key] for state, m in models.items() if m.get(key) is not None}, write)
        for key, title, write in plain
    ]
    for batch in batches({"models": models})[:2]:
        times = {s: m["latency_ms"][batch] for s, m in models.items() if batch in m.get("latency_ms", {})}
        medians = {state: of["median"] for state, of in times.items()}
        spreads = {state: (of["low"], of["high"]) for state, of in times.items()}
        panels.append(Bars(f"Latency, batch {batch} (ms)", medians, readable.digits, spreads))
    return [panel for panel in panels if panel.values]


def _draw_bars(axes: Any, panel: Bars) -> None:
    """Draw one panel: a bar for each state, its figure above, its spread as a whisker."""
    heights = list(panel.values.values())
    places = range(len(heights))
    axes.bar(places, heights, width=0.62, color=[COLOURS[state] for state in panel.values])
    spreads = [panel.spreads[state] if panel.spreads else (h, h) for state, h in panel.values.items()]
    if panel.spreads:
        reach = np.abs(np.array(spreads).T - heights)
        axes.errorbar(places, heights, yerr=reach, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
    note = {"ha": "center", "va": "bottom", "fontsize": 9, "textcoords": "offset points"}
    for place, height, (_, high) in zip(places, heights, spreads, strict=True):
        axes.annotate(panel.write(height), (place, high), (0, 2), **note)
    axes.set_xticks(places, list(panel.values), fontsize=9)
    axes.set_ylim(0, max([*(high for _, high in spreads), 1e-12]) * 1.3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title(panel.title)


def _in_words(panel: Bars) -> str:
    """Return what a panel shows."""
    values = ", ".join(f"{state} {panel.write(value)}" for state, value in panel.values.items())
    return f"{panel.title}: {values}"


def _histogram(axes: Any, name: str, histogram: Mapping[str, Any]) -> None:
    """Draw one layer: the dense weights filled, the masked ones as a line."""
    edges, dense, masked = (histogram.get(key, []) for key in ("edges", "dense", "masked"))
    if dense:
        axes.stairs(dense, edges, fill=True, color=COLOURS["dense"], alpha=0.6, label="dense")
        axes.set_ylim(0, 1.25 * max([*dense, 1]))
    if masked:
        axes.stairs(masked, edges, color=COLOURS["masked"], linewidth=1.2, label="masked")
    axes.set_title(_short(name), fontsize=9.5)
    axes.tick_params(labelsize=9)
    axes.locator_params(nbins=3)
    grid(axes)


def _biggest(layers: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the layers with the most weights, in the order of the model."""
    order = sorted(range(len(layers)), key=lambda place: -layers[place]["weights"])
    return [layers[place] for place in sorted(order[:most])]


def _left_out(chosen: Any, known: Any, what: str) -> str:
    """Return the words that tell of what is not drawn."""
    return "" if len(chosen) == len(known) else f"; the {len(chosen)} biggest of {len(known)} {what}"


def _short(name: str) -> str:
    """Return a name with its middle left out where it is long."""
    return name if len(name) <= 24 else f"{name[:8]}…{name[-15:]}"
