"""The comparison in depth in a run: what it measures, and when it says why not."""

import json

import pytest
import torch

from tonsor.recipe.context import Run
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.reporting import read_report
from tonsor.recipe.run import run_recipe
from tonsor.recipe.schema import Recipe
from tonsor.recipe.trust import _picture

pytestmark = pytest.mark.slow


def run(folder, told=None, report=None, **changes):
    """Run a recipe of seconds and return its report."""
    content = {
        "name": "a",
        "model": {"build": "tonsor.examples.models:mlp", "sizes": [64, 16, 10]},
        "data": {"load": "tonsor.examples.data:digits"},
        "train": {"epochs": 4, "batch_size": 100},
        "prune": [{"sparsity": 0.9, "epochs": 0}],
        "report": {"rounds": 1, **(report or {})},
        **changes,
    }
    tell = (lambda event: None) if told is None else told.append
    made = Run(Recipe.model_validate(content), RunFolder(folder), tell=tell)
    run_recipe(made, "")
    return made, read_report(folder)


def logits(made, stage):
    inputs, targets = made.data["test"].tensors
    with torch.no_grad():
        return made.model_after(stage).eval()(inputs), targets


def test_the_figures_are_those_of_the_two_models_on_the_test_data(tmp_path):
    made, report = run(tmp_path / "run", report={"image": [1, 8, 8], "trust_samples": 100})
    trust = report["trust"]
    assert json.loads(json.dumps(report)) == report
    (dense, targets), (masked, _) = logits(made, "train"), logits(made, "prune")
    right = [(of.argmax(1) == targets) for of in (dense, masked)]
    lost = (right[0] & ~right[1]).nonzero().flatten().tolist()
    assert sorted(trust["exemplars"]["indices"]) == lost
    assert lost
    assert sum(row["lost"] for row in trust["classes"]) == len(lost)
    assert trust["robustness"]["clean"]["dense"] == right[0][:100].double().mean()
    assert trust["robustness"]["clean"]["masked"] == right[1][:100].double().mean()
    assert set(trust["robustness"]["corruptions"]) == {"noise", "blur", "contrast", "shift"}
    assert (trust["samples"], trust["robust_samples"], trust["explained_samples"]) == (397, 100, 100)
    first = trust["exemplars"]["shown"][0]
    assert first["target"] == targets[first["index"]] != first["answer"]
    grey = made.data["test"].tensors[0][first["index"]].view(8, 8) * 255
    assert torch.equal(torch.tensor(first["picture"]), grey.round().int())
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(
        f'id="plot-{name}"' in page for name in ("class_recalls", "robust_curves", "exemplar_pictures")
    )


def test_without_the_shape_of_images_numbers_are_numbers(tmp_path):
    _, report = run(tmp_path / "run")
    assert set(report["trust"]["robustness"]["corruptions"]) == {"noise", "scale"}
    assert all(of["picture"] is None for of in report["trust"]["exemplars"]["shown"])
    assert 'id="plot-exemplar_pictures"' not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("changes", [{"report": {"trust": False}}, {"prune": []}])
def test_nothing_is_measured_where_it_is_not_asked_for_or_nothing_was_pruned(tmp_path, changes):
    told = []
    _, report = run(tmp_path / "run", told, **changes)
    assert report["trust"] is None
    assert not [event for event in told if event["event"] == "note"]
    assert ">Trust<" not in (tmp_path / "run" / "report.html").read_text()


def fails(folder, why, **changes):
    """Run a recipe whose models cannot be compared in depth, and check that it says so in one line."""
    told = []
    _, report = run(folder, told, **changes)
    assert report["trust"] == {"why_not": why}
    assert [e["text"] for e in told if e["event"] == "note"] == [f"report: trust is not measured: {why}"]
    assert f"<p>Not measured: {why}.</p>" in (folder / "report.html").read_text()


def test_a_regression_says_why_not(tmp_path):
    fails(
        tmp_path / "run",
        "the targets are not one class a sample",
        model={"build": "tonsor.examples.models:linear"},
        data={"load": "tonsor.examples.data:diabetes"},
        train={"epochs": 1, "loss": "mse", "metric": "r2", "optimizer": {"rule": "SGD", "lr": 0.01}},
        prune=[{"sparsity": 0.5, "epochs": 0, "loss": "mse", "metric": "r2"}],
    )


def test_tokens_say_why_not(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 100)
    monkeypatch.setenv("TONSOR_TEXT", str(text))
    fails(
        tmp_path / "run",
        "the inputs are not one tensor of floats",
        model={"build": "tonsor.examples.models:char_lstm", "hidden": 8, "embedding": 4},
        data={"load": "tonsor.examples.data:text"},
        train={"epochs": 1, "batch_size": 8},
        prune=[{"sparsity": 0.5, "epochs": 0, "scope": "local"}],
    )


def test_a_shape_that_does_not_fit_is_told_and_costs_no_run(tmp_path):
    image = {"image": [1, 7, 8]}
    fails(
        tmp_path / "run",
        "report.image = [1, 7, 8] does not fit samples of shape [64]",
        report=image,
    )


def test_a_large_picture_in_colour_is_made_small_and_grey():
    image = torch.zeros(3, 100, 50)
    image[:, :50] = torch.tensor([3.0, 6.0, 9.0]).view(3, 1, 1)
    rows = _picture(image)
    assert (len(rows), len(rows[0])) == (32, 16)
    assert {value for row in rows[:15] for value in row} == {255}
    assert {value for row in rows[17:] for value in row} == {0}
    assert _picture(torch.ones(1, 2, 2)) == [[0, 0], [0, 0]]
