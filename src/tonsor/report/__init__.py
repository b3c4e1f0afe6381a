"""What happened, for people: measurements, plots, one HTML file."""

from collections.abc import Callable
from typing import Any

from tonsor.report.attribution import agreement as agreement
from tonsor.report.attribution import explanations as explanations
from tonsor.report.attribution import integrated_gradients as integrated_gradients
from tonsor.report.attribution import saliency as saliency
from tonsor.report.bars import histograms as histograms
from tonsor.report.bars import sizes as sizes
from tonsor.report.bars import sparsities as sparsities
from tonsor.report.classes import calibration_error as calibration_error
from tonsor.report.classes import class_changes as class_changes
from tonsor.report.classes import exemplars as exemplars
from tonsor.report.classes import wilson as wilson
from tonsor.report.compare import compare as compare
from tonsor.report.curves import curves as curves
from tonsor.report.curves import norms as norms
from tonsor.report.front import front as front
from tonsor.report.front import front_plot as front_plot
from tonsor.report.frontier import budget_plot as budget_plot
from tonsor.report.measure import latency as latency
from tonsor.report.measure import size as size
from tonsor.report.memory import activation_bytes as activation_bytes
from tonsor.report.memory import weight_bytes as weight_bytes
from tonsor.report.page import render as render
from tonsor.report.robustness import fgsm as fgsm
from tonsor.report.robustness import robustness as robustness
from tonsor.report.runs_page import render_runs as render_runs
from tonsor.report.runs_page import runs_plot as runs_plot
from tonsor.report.sensitivities import sensitivities as sensitivities
from tonsor.report.states import measure_states as measure_states
from tonsor.report.states_page import render_states as render_states
from tonsor.report.states_plots import accuracy_by_cost as accuracy_by_cost
from tonsor.report.states_plots import latency_by_batch as latency_by_batch
from tonsor.report.trust_plots import class_recalls as class_recalls
from tonsor.report.trust_plots import exemplar_pictures as exemplar_pictures
from tonsor.report.trust_plots import explanation_bars as explanation_bars
from tonsor.report.trust_plots import robust_curves as robust_curves
from tonsor.report.wire import wire as wire

PLOTS: dict[str, Callable[..., Any]] = {
    "sizes": sizes,
    "curves": curves,
    "norms": norms,
    "wire": wire,
    "sparsities": sparsities,
    "histograms": histograms,
    "sensitivities": sensitivities,
    "class_recalls": class_recalls,
    "robust_curves": robust_curves,
    "explanation_bars": explanation_bars,
    "exemplar_pictures": exemplar_pictures,
}
