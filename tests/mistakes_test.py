"""Bad input gets a clear error on one screen, exit status 1, and loses nothing."""

import pytest

from small import RECIPE, files_of, tonsor, write

pytestmark = pytest.mark.slow
TRAIN_ONLY = RECIPE.partition("[[prune]]")[0]
BROKEN_MODEL = """
import torch
class Broken(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.layer(x) / (self.calls < 60)
def broken():
    return Broken()
"""


def fails(*arguments, **options):
    result = tonsor(*arguments, **options)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_every_mistake_of_a_recipe_is_listed_and_nothing_is_written(tmp_path):
    text = RECIPE.replace("epochs = 6", "epoch = 6").replace('"AutoClip"', '"AutoClp"').replace("0.8", "1.0")
    told = fails("run", write(tmp_path, text), "--out", tmp_path / "run")
    assert "3 mistakes" not in told  # names of rules are looked up when the keys are right
    assert "unknown key 'epoch'; did you mean 'epochs'?" in told
    assert "prune.1.sparsity: input should be less than 1" in told
    assert not (tmp_path / "run").exists()


def test_a_rule_that_is_not_known_is_told_with_the_nearest_spelling(tmp_path):
    text = RECIPE.replace('"AutoClip"', '"AutoClp"').replace("examples.models", "example.models")
    told = fails("run", write(tmp_path, text), "--out", tmp_path / "run")
    assert "train.clip: unknown rule 'AutoClp'; did you mean 'AutoClip'?" in told
    assert "model.build: cannot import 'tonsor.example.models'" in told
    assert not (tmp_path / "run").exists()


def test_check_finds_what_run_would_and_writes_nothing(tmp_path):
    assert tonsor("check", write(tmp_path)).returncode == 0
    assert "train.clip.percentile" in fails("check", write(tmp_path), "--set", 'train.clip.percentile="x"')
    assert "did you mean 'clip'" in fails("list", "clipp")
    assert files_of(tmp_path) == {"small.toml"}


def test_a_model_that_does_not_fit_its_data_is_told(tmp_path):
    told = fails("check", write(tmp_path), "--set", "model.sizes=[63, 10]")
    assert "model, data and loss do not fit together" in told


def test_a_recipe_that_is_not_there(tmp_path):
    assert "cannot be read as TOML" in fails("run", tmp_path / "none.toml")


def test_a_report_that_is_not_there(tmp_path):
    assert "holds no report.json" in fails("report", tmp_path)
    assert "holds no report.json" in fails("compare", tmp_path, tmp_path / "other")
    assert "holds no run; give the folder of a finished one" in fails("compare", tmp_path)


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    recipe = write(tmp_path, TRAIN_ONLY)
    assert tonsor("run", recipe, "--out", tmp_path / "run", "--set", "train.epochs=1").returncode == 0
    before = files_of(tmp_path / "run")
    told = fails("run", recipe, "--out", tmp_path / "run", "--set", "train.epochs=2")
    assert "belongs to another recipe: " in told
    assert "train.epochs is 1 there and 2 here" in told
    assert files_of(tmp_path / "run") == before


def test_a_model_that_gives_nan_names_step_and_layer_and_keeps_the_checkpoint(tmp_path):
    (tmp_path / "own_model.py").write_text(BROKEN_MODEL)
    text = TRAIN_ONLY.replace('"tonsor.examples.models:mlp"', '"own_model:broken"')
    text = text.replace("sizes = [64, 32, 16, 10]\n", "")
    told = fails("run", write(tmp_path, text), "--out", tmp_path / "run", cwd=tmp_path)
    assert "train, step 60 of 144: the loss is " in told
    assert "the checkpoint of step 50 is kept" in told
    assert "train/checkpoints/step-50-worker-0.safetensors" in files_of(tmp_path / "run")


def test_a_disk_that_is_full_is_told_and_the_run_goes_on_later(tmp_path):
    resource = pytest.importorskip("resource")
    recipe = write(tmp_path, TRAIN_ONLY)

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes a file

    told = fails("run", recipe, "--out", tmp_path / "run", preexec_fn=small_disk)
    assert "cannot write" in told
    assert "free some space" in told
    assert not [name for name in files_of(tmp_path / "run") if name.endswith(".partial")]
    assert tonsor("run", recipe, "--out", tmp_path / "run").returncode == 0


def test_a_corrupt_checkpoint_is_told(tmp_path):
    recipe = write(tmp_path, TRAIN_ONLY)
    checkpoint = tmp_path / "run" / "train" / "checkpoints" / "step-10-worker-0.safetensors"
    assert tonsor("run", recipe, "--out", tmp_path / "run").returncode == 0
    (tmp_path / "run" / "train" / "receipt.json").unlink()
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    told = fails("run", recipe, "--out", tmp_path / "run")
    assert "step-10-worker-0.safetensors: not a whole safetensors file" in told
    assert "delete" in told
