"""The templates of the room's pages, with what they write figures by."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from tonsor.report import readable
from tonsor.report.svg import COLOURS

FILTERS = ("count", "size", "digits", "percent", "duration", "shape")


def filled(name: str, title: str, /, **values: Any) -> str:
    """Return a page: a template of this room with values in it, all text escaped.

    Args:
        name: The template's file.
        title: Of the page.
        values: What the template shows.

    Raises:
        ModuleNotFoundError: If jinja2 is missing: says how to install it.

    Example:
        >>> "<title>a &amp; b · tonsor</title>" in filled("frame.html.jinja", "a & b")
        True
    """
    try:
        from jinja2 import Environment, FunctionLoader
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "report: the page needs jinja2: pip install 'tonsor[report]'", name=error.name
        ) from error
    pages = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_text))
    pages.filters.update({name: getattr(readable, name) for name in FILTERS})
    return pages.get_template(name).render(title=title, colours=COLOURS, **values)


def marked(plots: Mapping[str, str], captions: Mapping[str, str], /) -> list[tuple[str, Any, str]]:
    """Return plots as a page shows them: name, SVG that is not escaped, caption; empty ones are left out.

    Args:
        plots: SVG text by name.
        captions: By name.

    Example:
        >>> marked({"a": "<svg/>", "b": ""}, {"a": "What it shows."})
        [('a', Markup('<svg/>'), 'What it shows.')]
    """
    from markupsafe import Markup

    return [(name, Markup(svg), captions.get(name, "")) for name, svg in plots.items() if svg]


def _text(name: str) -> str:
    """Return a template."""
    return files("tonsor.report").joinpath(name).read_text(encoding="utf-8")
