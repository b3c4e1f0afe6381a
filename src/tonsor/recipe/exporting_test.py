"""The export stage: every format from a recipe, and where int8 finds its ranges."""

import pytest
import torch

from tonsor.export import OnnxModel
from tonsor.recipe import stages
from tonsor.recipe.batches import Batches, mix
from tonsor.recipe.check import check_recipe, describe
from tonsor.recipe.context import Run
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.reporting import read_report
from tonsor.recipe.run import run_recipe
from tonsor.recipe.schema import Export, Recipe

pytestmark = pytest.mark.slow
RECIPE = Recipe.model_validate(
    {
        "name": "a",
        "model": {"build": "tonsor.examples.models:mlp", "sizes": [64, 16, 10]},
        "data": {"load": "tonsor.examples.data:digits"},
        "train": {"epochs": 2},
        "export": {"formats": ["torch_export", "onnx_int8"], "calibration": 3, "batch_size": 50},
        "report": {"rounds": 1, "batches": [1], "trust": False},
    }
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    run = Run(RECIPE, RunFolder(tmp_path_factory.mktemp("export")))
    run_recipe(run, "")
    return run


def test_each_format_has_a_file_of_its_own_name_and_says_how_near_it_is(done):
    files = {path.name for path in done.folder.file("export", "a").parent.iterdir()}
    assert files == {"a.pt2", "a.int8.onnx", "receipt.json"}
    of = {entry["file"]: entry for entry in read_report(done.folder.path)["export"]}
    assert of["a.pt2"]["max_difference"] == 0
    assert 0 < of["a.int8.onnx"]["rms_difference"] < 0.03


def test_the_files_answer_as_the_model_does(done):
    x, targets = done.data["test"].tensors
    with torch.no_grad():
        expected = stages.last_model(done)[0].eval()(x)
    folder = done.folder.file("export", "a").parent
    program = torch.export.load(folder / "a.pt2").module()
    torch.testing.assert_close(program(x), expected, rtol=0, atol=1e-6)
    small = OnnxModel(folder / "a.int8.onnx", threads=1)(x)
    accuracies = [float((y.argmax(1) == targets).double().mean()) for y in (expected, small)]
    assert abs(accuracies[0] - accuracies[1]) < 0.01


def test_int8_is_calibrated_on_training_data(done, tmp_path, monkeypatch):
    seen = []

    def format(model, inputs, path, /, *, calibration=None):
        seen.extend(calibration)
        raise KeyboardInterrupt

    monkeypatch.setitem(stages.FORMATS, "onnx_int8", format)
    section = {"formats": ["onnx_int8"], "calibration": 3, "batch_size": 50}
    run = Run(RECIPE.model_copy(update={"export": Export.model_validate(section)}), done.folder)
    with pytest.raises(KeyboardInterrupt):
        stages.export(run)
    batches = Batches(done.data["train"], batch_size=50, seed=mix(0, "export", "calibration"))
    assert len(seen) == 3
    assert all(torch.equal(x, batches(step)[0]) for step, x in enumerate(seen))


def test_check_and_list_know_the_formats():
    assert list(check_recipe(RECIPE))[-1] == "stages: train, export, report"
    told = "\n".join(describe("export"))
    assert "  onnx_int8     ranges='minmax', tolerance=0.2, reduce_range=None" in told
    assert "  torch_export  tolerance=" in told
