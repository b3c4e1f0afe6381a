"""What happened, for people: measurements, plots, one HTML file."""

from collections.abc import Callable
from typing import Any

from tonsor.report.bars import histograms as histograms
from tonsor.report.bars import sizes as sizes
from tonsor.report.bars import sparsities as sparsities
from tonsor.report.compare import compare as compare
from tonsor.report.curves import curves as curves
from tonsor.report.curves import norms as norms
from tonsor.report.front import front as front
from tonsor.report.front import front_plot as front_plot
from tonsor.report.measure import latency as latency
from tonsor.report.measure import size as size
from tonsor.report.page import render as render

PLOTS: dict[str, Callable[..., Any]] = {
    "sizes": sizes,
    "curves": curves,
    "norms": norms,
    "sparsities": sparsities,
    "histograms": histograms,
}
