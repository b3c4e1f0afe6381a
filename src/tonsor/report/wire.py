"""A plot of what several workers sent of their gradients, what they held back, and what it took."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tonsor.report import readable
from tonsor.report.curves import Stretch, stretches
from tonsor.report.svg import ACCENT, COLOURS, INK, WIDTH, drawing, grid, numbers, thin, to_svg

TIMES = {"encode": ACCENT, "send": COLOURS["dense"], "decode": COLOURS["shrunk"]}


def wire(report: Mapping[str, Any], /) -> str:
    """Draw bytes sent, residual norm and time in encoding, sending and decoding, step by step.

    Args:
        report: The content of a `report.json`.

    Returns:
        SVG text; empty where nothing was compressed.

    Example:
        >>> wire({})
        ''
    """
    stages = [stage for stage in stretches(report) if np.isfinite(_column(stage, "sent")).any()]
    if not stages:
        return ""
    with drawing(WIDTH, 4.8) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for number, stage in enumerate(stages):
            _sent(axes[0], stage, named=not number)
            _line(axes[1], stage, "residual", INK, None)
            for part, colour in TIMES.items():
                _line(axes[2], stage, part, colour, None if number else part)
        for place, title in enumerate(("bytes sent (log)", "residual norm", "milliseconds")):
            axes[place].set_ylabel(title)
            grid(axes[place])
        axes[0].set_yscale("log")
        axes[1].set_ylim(bottom=0)
        axes[0].legend(loc="upper right", ncols=2)
        axes[2].legend(loc="upper right", ncols=3)
        axes[2].set_xlabel("training step")
        return to_svg(figure, "wire", _in_words(stages))


def _column(stage: Stretch, key: str) -> Any:
    """Return a column of the history, NaN where there is no number."""
    return numbers(stage.history.get(key, []))


def _line(axes: Any, stage: Stretch, key: str, colour: str, label: str | None) -> None:
    """Draw a column over the common axis, thinned."""
    values = _column(stage, key)
    kept = thin(values)
    steps = numbers(stage.history["step"])[: len(values)] + stage.offset
    axes.plot(steps[kept], values[kept], color=colour, linewidth=0.9, label=label)


def _sent(axes: Any, stage: Stretch, *, named: bool) -> None:
    """Draw the bytes sent, and above them those of an uncompressed step."""
    dense = _column(stage, "sent") * _column(stage, "factor")
    steps = numbers(stage.history["step"]) + stage.offset
    kept = thin(dense)
    label = "uncompressed" if named else None
    axes.plot(steps[kept], dense[kept], color=INK, linewidth=0.9, linestyle="--", label=label)
    _line(axes, stage, "sent", ACCENT, "sent" if named else None)


def _in_words(stages: list[Stretch]) -> str:
    """Return what was sent and saved in all."""
    sent = np.concatenate([_column(stage, "sent") for stage in stages])
    factors = np.concatenate([_column(stage, "factor") for stage in stages])
    dense = np.nansum(sent * factors)
    times = [np.nanmedian(np.concatenate([_column(stage, part) for stage in stages])) for part in TIMES]
    spent = ", ".join(
        f"{readable.milliseconds(time)} {part}" for time, part in zip(times, TIMES, strict=True)
    )
    return (
        f"Each worker sent {readable.size(np.nansum(sent))} of gradients in "
        f"{np.isfinite(sent).sum():,} steps, uncompressed {readable.size(dense)}; a step's median: {spent}"
    )
