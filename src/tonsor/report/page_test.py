import re
import sys

import pytest

from tonsor.report import render
from tonsor.report.example_test import example
from tonsor.report.page import summary, table

pytestmark = pytest.mark.slow

HEADINGS = {
    "models": "Results",
    "layers": "Layers",
    "trust": "Trust",
    "heal": "Healed",
    "shrink": "Removed for good",
    "export": "Files",
    "recipe": "Recipe",
    "seconds": "Time",
    "hardware": "Hardware",
    "versions": "Versions",
}


@pytest.fixture(scope="module")
def page():
    return render(example())


def cells(report):
    return {row.name: [cell.text for cell in row.cells] for row in table(report)}


def notes(report):
    return {row.name: [cell.note for cell in row.cells] for row in table(report)}


def test_the_page_tells_every_figure_of_the_report(page):
    for figure in ("97.8 %", "96.9 %", "22,890", "5,617", "6,271", "27.2 KiB", "26,350", "0.148 ms"):
        assert figure in page
    for words in ("its labels reach the output", "4.8e-07", "2.4e-07", "small.onnx", "1 min 15 s", "0.042"):
        assert words in page
    assert "sparsity = 0.75" in page
    assert "2.13.0+cpu" in page


def test_the_page_needs_nothing_from_outside(page):
    links = set(re.findall(r"https?://[^\"'\s<]*", page))
    assert links == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in page
    assert "@import" not in page
    assert set(re.findall(r'(?:src|href)="(?!#)([^"]*)"', page)) == {"data:,"}


def test_no_two_things_of_the_page_have_one_name(page):
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids) > 5


@pytest.mark.parametrize("part", HEADINGS)
def test_a_part_the_report_does_not_have_is_left_out(part, page):
    assert f">{HEADINGS[part]}<" in page
    report = example()
    del report[part]
    without = render(report)
    assert f">{HEADINGS[part]}<" not in without
    assert all(f">{heading}<" in without for other, heading in HEADINGS.items() if other != part)


def test_what_is_none_is_left_out(page):
    assert ">gpu<" not in page
    report = example() | {"shrink": None}
    report["layers"][0]["shrunk_shape"] = None
    without = render(report)
    assert ">Removed for good<" not in without
    assert "None" not in without
    assert ">shrunk</th>" in without


def test_an_empty_report_is_a_page():
    page = render({})
    assert "<h1>run</h1>" in page
    assert "<svg" not in page
    assert "undefined" not in page.lower()


def test_text_is_escaped_wherever_it_stands():
    evil = "<img src=x onerror=alert(1)>"
    report = example()
    report |= {"name": evil, "metric": evil, "created": evil, "recipe": evil, "seed": evil}
    report["shrink"]["frozen"][0]["why"] = report["export"][0]["file"] = report["layers"][0]["name"] = evil
    report["hardware"] = {evil: evil}
    report["history"] = {evil: report["history"]["train"]}
    assert "<img" not in render(report)


def test_a_regression_does_not_speak_of_accuracy():
    report = example() | {"metric": "r2", "trust": {"why_not": "the targets are not one class a sample"}}
    report["sensitivity"]["metric"] = "r2"
    page = render(report)
    assert "accuracy" not in page
    assert "<p>Not measured: the targets are not one class a sample.</p>" in page
    assert cells(report)["r2"] == ["0.978", "0.969", "0.969"]
    assert notes(report)["r2"] == ["", "", ""]
    assert "Its r2 is 0.969, the dense model has 0.978." in summary(report)


def test_the_trust_is_told_in_figures(page):
    for words in (
        "lost 30 that the dense one gets right, and gained 10",
        "Class 0 lost most",
        "its recall is 90.0 %, dense 97.5 %",
        "Calibration error (how far confidence lies from accuracy): 3.1 %, dense 1.2 %",
        "by their place in the test data: 3, 4, 5",
        "and 6 more",
    ):
        assert words in " ".join(page.split())


def test_a_latency_within_the_noise_of_the_dense_model_is_called_no_change():
    found = notes(example())["latency, batch 64"]
    assert found[1] == ""
    assert found[2].endswith("48.7 %")


def test_what_a_state_did_not_measure_stays_empty():
    report = example()
    del report["models"]["shrunk"]["macs"]
    assert cells(report)["MACs a sample"] == ["61,824", "61,824", ""]
    del report["models"]["dense"]["macs"]
    assert notes(report)["MACs a sample"] == ["", "", ""]


@pytest.mark.parametrize(
    "states, expected",
    [
        (["dense"], "The dense model has 22,890 parameters. Its accuracy is 97.8 %."),
        (
            ["dense", "masked"],
            "The masked model has 5,617 nonzero parameters where the dense one",
        ),
        (["shrunk"], "The shrunk model has 6,271 parameters. Its accuracy is 96.9 %."),
        ([], ""),
    ],
)
def test_the_summary_speaks_of_the_last_state_there_is(states, expected):
    models = {state: example()["models"][state] for state in states}
    got = summary(example() | {"models": models})
    assert got.startswith(expected)
    assert bool(got) == bool(expected)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_is_told_with_the_way_to_get_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tonsor\[report\]'"):
        render(example())
