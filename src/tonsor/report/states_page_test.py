import re
import sys
from xml.etree import ElementTree

import pytest

from tonsor.report import accuracy_by_cost, compare, latency_by_batch, render_runs, render_states, runs_plot
from tonsor.report.states_page import best
from tonsor.report.svg import COLOURS

pytestmark = pytest.mark.slow
TIMES = {"dense": 2.0, "masked": 1.98, "shrunk": 1.0, "packed": 1.02, "sparse": 0.5, "int8": 0.8}
SIZES = {"dense": 94_336, "masked": 94_336, "shrunk": 27_904, "packed": 3_004, "sparse": 3_004, "int8": 9_001}
EVIL = "<img src=x onerror=alert(1)>"


def spread(time, per):
    ratio = time / TIMES["dense"]
    ends = {"median": time * per, "low": time * per * 0.9, "high": time * per * 1.3}
    return ends | {"ratio": ratio, "ratio_low": ratio * 0.95, "ratio_high": ratio * 1.05}


def comparison():
    models = {
        state: {
            "accuracy": 0.978 - 0.001 * number,
            "loss": 0.08,
            "parameters": 22_890,
            "nonzeros": 5_617,
            "macs": 61_824,
            "bytes": SIZES[state],
            "weight_bytes": 90_000,
            "activation_bytes": None if state == "int8" else {"1": 1_000, "64": 64_000},
            "latency_ms": {"1": spread(TIMES[state], 0.1), "64": spread(TIMES[state], 1)},
            "samples_per_second": {"1": spread(TIMES[state], 900), "64": spread(TIMES[state], 9000)},
            "made": f"made as {state}",
            "file": f"{state}.file",
        }
        for number, state in enumerate(TIMES)
    }
    return {
        "name": "digits",
        "metric": "accuracy",
        "created": "2026-11-22T10:31:07Z",
        "models": models,
        "layers": [
            {"name": "fc1", "density": 0.05, "swapped": True, "why": "kernel at 64 columns (3.1x dense)"},
            {"name": "fc2", "density": None, "swapped": False, "why": "density 0.83 is above 0.7"},
        ],
        "notes": ["int8: a note"],
        "settings": {"batches": [1, 64], "rounds": 50, "threads": 1, "device": "cpu"},
        "hardware": {"processor": "x86_64", "threads": 1, "gpu": None},
        "versions": {"tonsor": "0.1.0"},
    }


@pytest.fixture(scope="module")
def page():
    return render_states(comparison())


def test_the_page_tells_every_figure(page):
    for words in (
        "97.8 %",
        "92.1 KiB",
        "2.93 KiB",
        "22,890",
        "2.00 ms",
        "1.80\N{EN DASH}2.60",
        "150 KiB",
        "4.50 k",
    ):
        assert words in page
    for words in (
        "made as shrunk",
        "sparse.file",
        "kernel at 64 columns",
        "int8: a note",
        "1 thread",
        "1, 64",
    ):
        assert words in page
    assert page.count("<svg") == 2
    assert "None" not in page


def test_the_page_needs_nothing_from_outside(page):
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<script" not in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids) > 2


def test_all_text_is_escaped():
    evil = comparison() | {"name": EVIL, "metric": EVIL, "notes": [EVIL]}
    evil["models"]["dense"] |= {"made": EVIL, "file": EVIL}
    evil["layers"][0] |= {"name": EVIL, "why": EVIL}
    rows = [{"run": EVIL, "model": EVIL, "metric": EVIL, "accuracy": 0.5, "bytes": 5}]
    assert "<img" not in render_states(evil) + render_runs(rows)


@pytest.mark.parametrize("plot", [latency_by_batch, accuracy_by_cost])
def test_plots_take_what_there_is_and_are_the_same_each_time(plot):
    ElementTree.fromstring(plot(comparison()))
    assert plot(comparison()) == plot(comparison())
    part = comparison()
    del part["models"]["dense"]["latency_ms"]["1"]
    part["models"]["int8"] = {"accuracy": None, "bytes": 7}
    ElementTree.fromstring(plot(part))
    assert plot({"models": {"dense": {}}}) == ""


def test_the_first_sentence_names_the_smallest_and_the_fastest():
    told = best(comparison())
    assert "The smallest file is that of packed: 2.93 KiB, 31.4 times smaller than dense." in told
    assert "At batch 64 sparse is the fastest: 0.500 ms, 4.00 times as fast as dense." in told
    slow = comparison()
    slow["models"] = {state: slow["models"][state] for state in ("dense", "masked")}
    assert "At batch 1 none is clearly faster than dense." in best(slow)
    alike = comparison()
    alike["models"]["sparse"]["latency_ms"]["64"] = spread(TIMES["shrunk"] * 0.97, 1)  # no layer was swapped
    del alike["models"]["int8"]
    assert "At batch 64 shrunk is the fastest: 1.00 ms, 2.00 times as fast as dense." in best(alike)
    assert best({}) == best({"models": {"dense": {}}}) == ""


def test_every_state_has_a_colour_that_is_seen_on_white_and_on_black():
    def light(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert list(COLOURS) == list(TIMES)
    for colour in COLOURS.values():
        assert 1.05 / (light(colour) + 0.05) >= 3
        assert (light(colour) + 0.05) / (light("#14171a") + 0.05) >= 3


def test_runs_stand_side_by_side_on_a_page():
    rows = compare({"runs/a": comparison(), "runs/b": comparison() | {"metric": "r2"}})
    page = render_runs(rows)
    assert page.count("<tr>") == 1 + 12
    assert "accuracy / r2" in page
    assert "97.8 %" in page
    assert "0.978" in page
    assert "<svg" not in page  # two metrics have no axis in common
    page = render_runs(compare({"runs/a": comparison(), "runs/b": comparison()}))
    assert "<svg" in page
    assert ">10 k<" in page
    assert runs_plot([]) == ""


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_is_told_with_the_way_to_get_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tonsor\[report\]'"):
        render_states(comparison())
