import inspect
import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib._pylab_helpers import Gcf

from tonsor.report import PLOTS
from tonsor.report.example_test import example
from tonsor.report.page import CAPTIONS
from tonsor.report.svg import INK

pytestmark = pytest.mark.slow

HOSTILE = '<script>alert("&amp;")</script>'
every_plot = pytest.mark.parametrize("name", PLOTS)


def long(steps):
    report = example()
    report["history"] = {"train": {key: [1.0 + n % 7 for n in range(steps)] for key in ("loss", "norm")}}
    train = report["history"]["train"]
    train |= {"step": list(range(steps)), "clipped": [1] * steps, "threshold": [2.0] * steps}
    report["evaluations"] = {"train": {"step": train["step"], "accuracy": train["loss"]}}
    report["layers"] *= 100
    one = next(iter(report["histograms"].values()))
    report["histograms"] = {f"layer.{number}": one for number in range(400)}
    return report


@every_plot
def test_a_plot_obeys_the_one_law_and_has_a_caption(name):
    (report,) = inspect.signature(PLOTS[name]).parameters.values()
    assert report.kind is inspect.Parameter.POSITIONAL_ONLY
    assert CAPTIONS[name].endswith(".")


@every_plot
def test_a_plot_is_one_well_formed_image_with_words_for_those_who_cannot_see_it(name):
    text = PLOTS[name](example())
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    assert len(root.get("aria-label")) > 20
    assert root.get("viewBox")


@every_plot
def test_a_plot_takes_the_colour_and_font_of_the_page_and_asks_for_nothing_outside(name):
    text = PLOTS[name](example())
    assert "currentColor" in text
    assert INK not in text
    assert "DejaVu" not in text
    links = set(re.findall(r"https?://[^\"'\s<]*", text))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<style" not in text
    assert "<image" not in text


@every_plot
def test_every_name_inside_is_the_plots_own_and_is_there_when_used(name):
    text = PLOTS[name](example())
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert all(found.startswith(f"{name}-") for found in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) == set(ids)


@every_plot
def test_the_same_report_gives_the_same_plot_whatever_a_person_has_set(name):
    text = PLOTS[name](example())
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "axes.grid": True}):
        assert PLOTS[name](example()) == text
        assert mpl.rcParams["font.size"] == 30
    assert not Gcf.figs


@every_plot
@pytest.mark.parametrize("report", [{}, {"models": {}, "layers": [], "history": {}, "histograms": {}}])
def test_where_there_is_nothing_to_draw_there_is_no_plot(name, report):
    assert PLOTS[name](report) == ""


@every_plot
def test_names_are_text_and_never_markup_or_formulas(name):
    report = example()
    report["metric"] = HOSTILE
    for part in ("history", "evaluations", "histograms"):
        report[part] = {f"{HOSTILE}$\\x^{number}$": of for number, of in enumerate(report[part].values())}
    for layer in report["layers"]:
        layer["name"] = f"{HOSTILE}$\\frac$"
    text = PLOTS[name](report)
    assert "<script" not in text
    ElementTree.fromstring(text)


@every_plot
@pytest.mark.parametrize("state", ["dense", "masked", "shrunk"])
def test_a_state_that_was_not_measured_is_no_obstacle(name, state):
    report = example()
    report["models"] = {state: {"bytes": 10}}
    report["histograms"] = {name: {**of, state: []} for name, of in report["histograms"].items()}
    for of in report["evaluations"].values():
        del of["loss"]
    assert ElementTree.fromstring(PLOTS[name](report)).tag.endswith("svg")


@pytest.mark.parametrize("name", ["curves", "norms"])
def test_gaps_are_drawn_as_gaps(name):
    report = example()
    train = report["history"]["train"]
    for key in ("loss", "norm"):
        train[key][3:6] = [None, float("nan"), float("inf")]
    text = PLOTS[name](report)
    ElementTree.fromstring(text)
    assert "nan" not in text.lower()
    assert " inf" not in text.lower()


@every_plot
def test_a_long_run_of_a_big_model_gives_a_small_plot(name):
    assert len(PLOTS[name](long(50_000))) < 200_000


def test_many_short_stages_are_drawn_and_only_those_with_room_are_named():
    report = example()
    train = report["history"]["train"]
    short = {key: values[:5] for key, values in train.items()}
    report["history"] = {"train": train, **{f"prune.{number}": short for number in range(20)}}
    text = PLOTS["norms"](report)
    ElementTree.fromstring(text)
    assert ">train<" in text
    assert ">prune.7<" not in text
