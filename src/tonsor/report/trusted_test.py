"""The words say what the figures do, and no more than the samples allow; the plots stand what is odd."""

import re
from xml.etree import ElementTree

import pytest

from tonsor.report.example_test import example
from tonsor.report.trust_plots import class_recalls, exemplar_pictures, explanation_bars, robust_curves
from tonsor.report.trusted import sentences


def trust():
    return example()["trust"]


def test_every_part_has_its_sentence():
    told = sentences(trust())
    assert len(told) == 3  # the example could not compare the overlap
    full = trust()
    full["explanations"]["integrated_gradients"] |= {"overlap": {"median": 0.75, "low": 0.5, "high": 1.0}}
    assert "correlate by 0.800, and 75.0 % of the most important" in sentences(full)[2]
    assert sentences({}) == []


def test_means_are_over_all_strengths():
    found = trust()
    found["robustness"]["corruptions"] = {"noise": {"dense": [0.5, 0.7], "masked": [0.2, 0.4]}}
    found["robustness"]["fgsm"] = {"epsilons": [], "dense": [], "masked": []}
    assert "under corruption: 30.0 %, dense 60.0 %; under attack: none" in sentences(found)[1]


def test_a_loss_within_the_intervals_is_told_as_such():
    found = trust()
    row = found["classes"][0]
    assert "with so few samples their intervals of 95 % overlap" in sentences(found)[0]
    row["pruned"] |= {"high": 0.5}
    assert "overlap" not in sentences(found)[0]
    row["beyond"] = 0.0
    assert "No class lost more than the mean." in sentences(found)[0]


def test_what_could_not_be_measured_is_no_obstacle():
    found = trust()
    found["explanations"]["saliency"] = dict.fromkeys(("cosine", "spearman", "overlap"))
    found["exemplars"] = {"indices": [3], "shown": [{"index": 3, "target": 0, "answer": 1, "picture": None}]}
    assert exemplar_pictures({"trust": found}) == ""
    for plot in (class_recalls, explanation_bars, robust_curves):
        assert ElementTree.fromstring(plot({"trust": found})).tag.endswith("svg")
        assert plot({"trust": {"why_not": "no classes"}}) == ""
        assert plot({"trust": None}) == ""


def test_a_picture_shows_every_pixel_in_its_grey():
    found = trust()
    found["exemplars"]["shown"] = [
        {"index": 7, "target": 1, "answer": 2, "picture": [[0, 255, 255], [128, 128, 0]]}
    ]
    text = exemplar_pictures({"trust": found})
    assert "1 → 2  (#7)" in text
    drawn = [path.count("M") for path in re.findall(r'<path d="([^"]*)" clip-path', text)]
    assert drawn == [2, 1, 1]  # a path for each of three greys; neighbours of one grey are one box
    assert all(text.count(f"fill: {colour}") == 1 for colour in ("#ffffff", "#808080"))


@pytest.mark.slow
def test_many_classes_and_large_pictures_stay_small():
    found = trust()
    found["classes"] = found["classes"] * 100
    chance = [[(7 * x * y) % 256 for x in range(32)] for y in range(32)]
    found["exemplars"]["shown"] = [{**found["exemplars"]["shown"][0], "picture": chance}] * 12
    assert len(class_recalls({"trust": found})) < 60_000
    assert len(exemplar_pictures({"trust": found})) < 1_200_000
