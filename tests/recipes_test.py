"""The recipes that ship: each runs, made small where it is large, and does what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from small import tonsor
from tonsor.examples import diabetes, write_idx
from tonsor.files import read_tensors
from tonsor.recipe.build import check_rules
from tonsor.recipe.read import read_recipe
from tonsor.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
ONE_EPOCH = ["train.epochs=1", "prune.0.epochs=1", "finetune.epochs=1", "report.rounds=3"]


def run(name, out, changes=(), **variables):
    """Run a shipped recipe with changes and return its report."""
    changed = [part for change in changes for part in ("--set", change)]
    recipe = ROOT / "recipes" / f"{name}.toml"
    result = tonsor("run", recipe, "--out", out, "--quiet", *changed, variables=variables)
    assert result.returncode == 0, result.stderr
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a folder with a small set of IDX files: each class is a bright row."""
    folder = tmp_path_factory.mktemp("idx")
    for part, count in (("train", 600), ("t10k", 100)):
        labels = torch.arange(count) % 10
        images = torch.randint(0, 60, (count, 28, 28), generator=torch.Generator().manual_seed(count))
        images[torch.arange(count), 2 * labels + 3] = 250
        write_idx(folder / f"{part}-images-idx3-ubyte", images.to(torch.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels.to(torch.uint8))
    return folder


def test_all_recipes_are_there():
    names = {path.stem for path in RECIPES}
    assert names == {"digits", "lenet-300-100", "lenet-5", "linear", "char-lm", "ticket", "rigl"} | {
        "packed-lenet-300-100",
        "packed-lenet-5",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_has_no_mistake_and_bears_its_file_name(path):
    recipe = read_recipe(path)
    check_rules(recipe)
    assert recipe.name == path.stem
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe  # as settings.json is read again


@pytest.mark.slow
def test_digits_keeps_its_accuracy_at_90_percent_and_gets_smaller(tmp_path):
    report = run("digits", tmp_path / "run")
    dense, small = report["models"]["dense"], report["models"]["shrunk"]
    assert dense["accuracy"] > 0.95
    assert report["models"]["masked"]["accuracy"] >= dense["accuracy"] - 0.01
    assert small["accuracy"] >= dense["accuracy"] - 0.01
    kept = sum(layer["nonzeros"] for layer in report["layers"])
    assert kept == round(0.1 * sum(layer["weights"] for layer in report["layers"]))
    assert small["bytes"] < 0.4 * dense["bytes"]
    assert small["macs"] < 0.4 * dense["macs"]


@pytest.mark.slow
def test_linear_removes_one_weight_at_a_time_and_ends_at_least_squares(tmp_path):
    report = run("linear", tmp_path / "run")
    ramp = [round(value, 6) for value in dict.fromkeys(report["history"]["prune.0"]["sparsity"])]
    assert ramp == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    weights, _ = read_tensors(tmp_path / "run" / "finetune" / "model.safetensors")
    weight = next(w for w in weights.values() if w.ndim == 2)[0].double().numpy()
    kept = weight != 0
    assert kept.sum() == 4
    inputs, targets = (t.double().numpy() for t in diabetes()["train"].tensors)
    columns = np.column_stack([inputs[:, kept], np.ones(len(inputs))])
    exact = np.linalg.lstsq(columns, targets[:, 0], rcond=None)[0]
    np.testing.assert_allclose(weight[kept], exact[:-1], atol=2e-3)


@pytest.mark.slow
def test_a_ticket_of_a_tenth_of_the_weights_is_as_good_as_the_dense_model(tmp_path):
    report = run("ticket", tmp_path / "run", ["train.epochs=8", "prune.0.epochs=8", "prune.0.rounds=4"])
    rounds = [report["history"][f"prune.0.{number}"]["sparsity"][0] for number in range(4)]
    assert rounds == pytest.approx([1 - 0.1 ** (n / 4) for n in (1, 2, 3, 4)], abs=1e-3)
    models = report["models"]
    assert models["dense"]["accuracy"] > 0.95
    assert models["masked"]["accuracy"] > models["dense"]["accuracy"] - 0.03


@pytest.mark.slow
def test_rigl_trains_a_model_that_is_never_dense(tmp_path):
    report = run("rigl", tmp_path / "run", ["prune.0.epochs=20"])
    assert set(report["history"]["prune.0"]["sparsity"]) == {report["history"]["prune.0"]["sparsity"][0]}
    assert report["history"]["prune.0"]["sparsity"][0] == pytest.approx(0.9, abs=1e-3)
    assert report["models"]["dense"]["accuracy"] < 0.3  # untrained: what the pass began with
    assert report["models"]["masked"]["accuracy"] > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5"])
def test_lenet_runs_on_idx_files_from_a_folder(tmp_path, pictures, name):
    passes = ["prune.1.epochs=1"] if name == "lenet-5" else []
    changes = [*ONE_EPOCH, *passes, "train.epochs=4", "prune.0.every=2"]
    report = run(name, tmp_path / "run", changes, TONSOR_DATA=str(pictures))
    assert report["models"]["dense"]["accuracy"] > 0.9
    assert report["models"]["shrunk"]["parameters"] < report["models"]["dense"]["parameters"]


@pytest.mark.slow
def test_char_lm_runs_on_a_text_of_ones_own(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 400)
    changes = [*ONE_EPOCH, "model.hidden=32", "model.embedding=16", "train.epochs=6", "train.batch_size=8"]
    report = run("char-lm", tmp_path / "run", changes, TONSOR_TEXT=str(text))
    assert report["models"]["dense"]["accuracy"] > 0.3
    assert {e["format"] for e in report["export"]} == {"safetensors", "onnx"}


@pytest.mark.slow
def test_without_data_the_error_names_all_three_ways(tmp_path):
    recipe = ROOT / "recipes" / "lenet-5.toml"
    result = tonsor("run", recipe, "--out", tmp_path / "run", variables={"TONSOR_DATA": str(tmp_path)})
    assert result.returncode == 1
    for way in ("TONSOR_DATA", "dataset-fashion-mnist", "download"):
        assert way in result.stderr
    assert not list(tmp_path.rglob("*.partial"))
