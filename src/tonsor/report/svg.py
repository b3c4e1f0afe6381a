"""What every plot shares: its colours, its hand, and the way from a figure to a small SVG text."""

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours and two of their kind: apart for colour-blind readers, and at least 3:1 on white
# and on near-black.
COLOURS = {
    "dense": "#0072b2",
    "masked": "#d55e00",
    "shrunk": "#009e73",
    "packed": "#cc79a7",
    "sparse": "#8c7a00",
    "int8": "#7b5fc0",
}
ACCENT = "#b5579c"  # what belongs to no state of the model: a validation curve, a threshold
INK = "#010203"  # stands for the page's own text colour, light or dark
WIDTH = 5.4  # inches: at this size the text of a plot is read on a phone, too
POINTS = 1000  # points a curve may have; more cannot be seen and make the page heavy

SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "tonsor",
    "text.parse_math": False,  # a layer may be called "$x$"
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.5,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "path.simplify_threshold": 0.2,
}


@contextmanager
def drawing(width: float, height: float, /) -> Iterator["Figure"]:
    """Give an empty figure in the house's hand; pyplot and its global state are not touched.

    Args:
        width: In inches; `WIDTH` fills a column of the page.
        height: In inches.

    Raises:
        ModuleNotFoundError: If matplotlib is missing: says how to install it.

    Example:
        >>> with drawing(2, 1) as figure:
        ...     text = to_svg(figure, "empty", "Nothing at all")
        >>> text[:5], 'aria-label="Nothing at all"' in text
        ('<svg ', True)
    """
    try:
        from matplotlib import rc_context, rcParamsDefault
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "report: plots need matplotlib: pip install 'tonsor[report]'", name=error.name
        ) from error
    settings: Any = {**_portable(rcParamsDefault), **SETTINGS}
    with rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained")


def _portable(defaults: Any) -> dict[str, Any]:
    """Return matplotlib's own defaults, so that a person's style file changes nothing here."""
    return {key: value for key, value in defaults.items() if not key.startswith(("backend", "date"))}


def to_svg(figure: "Figure", name: str, label: str, /) -> str:
    """Return a figure as SVG text that stands inside a page.

    The same figure gives the same text. Names inside begin with `name`, so that two plots of a page
    never share one; the text colour and font are those of the page.

    Args:
        figure: From `drawing`, inside its `with`.
        name: Unlike that of any other plot of the page.
        label: What the plot shows, for those who cannot see it.

    Returns:
        The `<svg>` element.

    Example:
        >>> with drawing(2, 1) as figure:
        ...     to_svg(figure, "a", "x") == to_svg(figure, "a", "x")
        True
    """
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = text.replace(INK, "currentColor")
    text = _own_names(text, name)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    view = re.search(r'viewBox="([^"]*)"', text)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view[1] if view else ""}" role="img" aria-label="{html.escape(label)}" '
        'font-family="system-ui, sans-serif" stroke-linejoin="round" stroke-linecap="butt">'
    )
    return head + re.sub(r"\n\s*", "\n", body).strip()


def _own_names(text: str, name: str) -> str:
    """Return the text with its referenced ids prefixed, and the others dropped."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text
    )
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def numbers(values: Sequence[float | None], /) -> NDArray[np.float64]:
    """Return values as an array in which whatever is missing or not finite is NaN: a gap in a curve.

    Args:
        values: Numbers, and None where there is none.

    Returns:
        Shape `(len(values),)`.

    Example:
        >>> numbers([1, None, float("inf")])
        array([ 1., nan, nan])
    """
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def thin(values: NDArray[np.float64], /, *, points: int = POINTS) -> NDArray[np.int64]:
    """Choose the points that stand for a long curve: the lowest and highest of each stretch, and both ends.

    Args:
        values: The curve, with NaN for gaps.
        points: How many may be chosen, at least 4; more draws finer.

    Returns:
        Their places, ascending, at most `points`.

    Example:
        >>> thin(np.array([0.0, 0, 0, 9, 0, 0, -9, 0, 0, 0]), points=4)
        array([0, 3, 6, 9])
    """
    if len(values) <= points:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), points // 2).astype(np.int64)
    stretches = np.split(values, edges[1:-1])
    starts = edges[:-1]
    lows = [np.where(np.isnan(part), np.inf, part).argmin() for part in stretches]
    highs = [np.where(np.isnan(part), -np.inf, part).argmax() for part in stretches]
    return np.unique([0, *(starts + lows), *(starts + highs), len(values) - 1])


def grid(axes: Any, /, *, axis: str = "y") -> None:
    """Draw faint lines across the axes, and nothing that shouts.

    Args:
        axes: matplotlib axes, changed in place.
        axis: Which values the lines belong to: "x" or "y".

    Example:
        >>> with drawing(2, 1) as figure:
        ...     grid(figure.add_subplot())
    """
    axes.grid(axis=axis, color=INK, alpha=0.15, linewidth=0.6)
    axes.tick_params(length=2.5)


def plain_log(axis: Any, /) -> None:
    """Write the numbers of a logarithmic axis as people do, at no more places than there is room for.

    Args:
        axis: matplotlib's x or y axis, its limits set; changed in place.

    Example:
        >>> with drawing(3, 2) as figure:
        ...     axes = figure.add_subplot(xscale="log", xlim=(2000, 2e6))
        ...     plain_log(axes.xaxis)
        ...     ">100 k<" in to_svg(figure, "log", "Nothing")
        True
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1 else (1, 3) if decades < 2 else (1,)))
    axis.set_major_formatter(FuncFormatter(_short_number))
    axis.set_minor_formatter(NullFormatter())


def _short_number(value: float, _: object) -> str:
    """Return 3000 as 3 k."""
    for unit, size in ((" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
