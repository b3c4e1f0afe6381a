"""Plots of the pruned model against the dense one: under corruption, by class, and what answers rest on."""

from collections.abc import Mapping
from typing import Any

from tonsor.report import readable
from tonsor.report.svg import ACCENT, COLOURS, INK, WIDTH, drawing, grid, to_svg

ROWS = 20  # classes at most: those that lost most
LEVELS = 9  # grey values of a picture
MARKS = {"dense": "o", "masked": "s"}
WIDTHS = {"dense": 3.4, "masked": 1.3}  # so that a line is seen under one that lies on it
STATES = tuple(MARKS)


def robust_curves(report: Mapping[str, Any], /) -> str:
    """Draw the accuracy of both models as inputs get worse, and under attack.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where it was not measured.

    Example:
        >>> robust_curves({})
        ''
    """
    found = _trust(report).get("robustness")
    if not found:
        return ""
    clean, attack = found["clean"], found["fgsm"]
    panels = {name: ([0, *range(1, 1 + len(of["dense"]))], of) for name, of in found["corruptions"].items()}
    panels["attack (FGSM)"] = ([0.0, *attack["epsilons"]], attack)
    lines = -(-len(panels) // 2)
    with drawing(WIDTH, 0.7 + 1.5 * lines) as figure:
        axes = None
        for number, (title, (x, of)) in enumerate(panels.items()):
            axes = figure.add_subplot(lines, 2, number + 1, sharey=axes)
            for state in STATES:
                y = [100 * value for value in (clean[state], *of[state])]
                style: dict[str, Any] = {
                    "marker": MARKS[state],
                    "markersize": 3.2,
                    "linewidth": WIDTHS[state],
                }
                axes.plot(x, y, color=COLOURS[state], label=state, **style)
            axes.set_title(title)
            axes.set_ylim(0, 105)
            grid(axes)
        figure.supxlabel("strength; of an attack its share of the inputs' range", fontsize=10.5)
        figure.supylabel("accuracy (%)", fontsize=10.5)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=2)
        words = [f"{title}: {_fall(of)}" for title, (_, of) in panels.items()]
        return to_svg(figure, "robust_curves", f"Accuracy as inputs get worse. {'; '.join(words)}")


def class_recalls(report: Mapping[str, Any], /) -> str:
    """Draw the recall of each class with its interval, for both models, the class that lost most first.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where it was not measured.

    Example:
        >>> class_recalls({})
        ''
    """
    rows = _trust(report).get("classes", [])[:ROWS]
    if not rows:
        return ""
    with drawing(WIDTH, 1.1 + 0.34 * len(rows)) as figure:
        axes = figure.add_subplot()
        for state, apart in (("dense", -0.16), ("masked", 0.16)):
            places = [place + apart for place in range(len(rows))]
            values = [100 * row[_key(state)]["recall"] for row in rows]
            lows = [max(0.0, v - 100 * row[_key(state)]["low"]) for v, row in zip(values, rows, strict=True)]
            highs = [
                max(0.0, 100 * row[_key(state)]["high"] - v) for v, row in zip(values, rows, strict=True)
            ]
            style: dict[str, Any] = {
                "fmt": MARKS[state],
                "markersize": 4.5,
                "elinewidth": 1.1,
                "color": COLOURS[state],
            }
            axes.errorbar(values, places, xerr=[lows, highs], label=state, **style)
        axes.set_yticks(range(len(rows)), [str(row["class"]) for row in rows])
        axes.invert_yaxis()
        axes.set_ylabel("class, the greatest loss first")
        axes.set_xlabel("recall (%), with its interval of 95 %")
        grid(axes, axis="x")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        words = (f"{r['class']} from {_percent(r['dense'])} to {_percent(r['pruned'])}" for r in rows)
        return to_svg(figure, "class_recalls", f"Recall by class, dense and masked: {', '.join(words)}")


def explanation_bars(report: Mapping[str, Any], /) -> str:
    """Draw how far both models' answers rest on the same inputs: median and spread of each measure.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where it was not measured.

    Example:
        >>> explanation_bars({})
        ''
    """
    found = [
        (f"{method.replace('_', ' ')},\n{measure}", of)
        for method, measures in _trust(report).get("explanations", {}).items()
        for measure, of in measures.items()
        if of is not None
    ]
    if not found:
        return ""
    with drawing(WIDTH, 0.8 + 0.44 * len(found)) as figure:
        axes = figure.add_subplot()
        for place, (_, of) in enumerate(found):
            axes.plot([of["low"], of["high"]], [place] * 2, color=INK, alpha=0.45, linewidth=3.2)
            axes.plot([of["median"]], [place], "o", color=ACCENT, markersize=6)
        axes.set_yticks(range(len(found)), [name for name, _ in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(min([0.0, *(of["low"] - 0.05 for _, of in found)]), 1.03)
        axes.set_xlabel("agreement with the dense model; 1 is the same")
        grid(axes, axis="x")
        words = (f"{name} {readable.digits(of['median'])}" for name, of in found)
        label = f"Agreement of attributions, medians: {'; '.join(words)}".replace("\n", " ")
        return to_svg(figure, "explanation_bars", label)


def exemplar_pictures(report: Mapping[str, Any], /) -> str:
    """Draw samples that the dense model gets right and the masked one wrong, where they are images.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where there are none.

    Example:
        >>> exemplar_pictures({})
        ''
    """
    shown = [of for of in _trust(report).get("exemplars", {}).get("shown", []) if of["picture"]]
    if not shown:
        return ""
    columns = 4
    lines = -(-len(shown) // columns)
    with drawing(WIDTH, 0.35 + 1.5 * lines) as figure:
        for number, of in enumerate(shown):
            axes = figure.add_subplot(lines, columns, number + 1)
            _picture(axes, of["picture"])
            axes.set_title(f"{of['target']} → {of['answer']}  (#{of['index']})", fontsize=9)
        words = (f"sample {of['index']}, a {of['target']} taken for a {of['answer']}" for of in shown)
        return to_svg(figure, "exemplar_pictures", f"Samples that were lost: {', '.join(words)}")


def _picture(axes: Any, rows: list[list[int]]) -> None:
    """Draw grey values as one path for each level: far smaller than a rectangle for each pixel."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    boxes: dict[int, list[Path]] = {}
    for y, row in enumerate(rows):
        levels = [value * (LEVELS - 1) // 255 for value in row] + [-1]
        start = 0
        for x in range(1, len(levels)):
            if levels[x] != levels[start]:
                corners = [(start, y), (x, y), (x, y + 1), (start, y + 1), (start, y)]
                boxes.setdefault(levels[start], []).append(Path(corners, closed=True))
                start = x
    for level, found in boxes.items():
        grey = (level / (LEVELS - 1),) * 3
        axes.add_patch(
            PathPatch(Path.make_compound_path(*found), facecolor=grey, edgecolor=grey, linewidth=0.2)
        )
    axes.set_xlim(0, len(rows[0]))
    axes.set_ylim(len(rows), 0)
    axes.set_aspect("equal")
    axes.axis("off")


def _trust(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a report that compares the models in depth; empty where there is none."""
    return report.get("trust") or {}


def _key(state: str) -> str:
    """Return what the figures by class call a state."""
    return "dense" if state == "dense" else "pruned"


def _percent(of: Mapping[str, float]) -> str:
    """Return a recall, written."""
    return readable.percent(of["recall"])


def _fall(of: Mapping[str, Any]) -> str:
    """Return where both models end at the greatest strength."""
    return ", ".join(f"{state} {readable.percent(of[state][-1])}" for state in STATES if of[state])
