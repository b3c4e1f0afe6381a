"""Passes that regrow, press and go back, as a user runs them: killed, and on two workers."""

import json
import signal
import subprocess

import pytest

from small import RECIPE, command, environment, tonsor, weights_of, write

pytestmark = pytest.mark.slow

MANNERS = """
[[prune]]
sparsity = 0.5
epochs = 2
rounds = 2
rewind = "weights"
rewind_to = 30
batch_size = 50

[[prune]]
sparsity = 0.7
epochs = 2
every = 5
regrow = "rigl"
importance = "random"

[[prune]]
sparsity = 0.75
epochs = 1
every = 5
soft = true

[[prune]]
sparsity = 0.8
epochs = 1
every = 1000
penalty = "linear"
"""
HEAD, _, REST = RECIPE.partition("[[prune]]")
TEXT = HEAD + MANNERS + REST[REST.index("[finetune]") :]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("done")
    result = tonsor("run", write(folder, TEXT), "--out", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_every_manner_ends_at_its_share_and_the_model_is_good(done):
    report = json.loads((done / "report.json").read_text())
    total = sum(layer["weights"] for layer in report["layers"])
    kept = sum(layer["nonzeros"] for layer in report["layers"])
    assert total - kept >= round(0.8 * total)
    assert report["models"]["masked"]["accuracy"] > report["models"]["dense"]["accuracy"] - 0.05
    assert {"prune.0.0", "prune.0.1", "prune.1", "prune.2", "prune.3"} < set(report["history"])
    assert (done / "train" / "step-30.safetensors").exists()


@pytest.mark.parametrize("kills", [4])
def test_killed_and_run_again_it_ends_with_the_same_bits(done, tmp_path, kills):
    recipe = write(tmp_path, TEXT)
    for number in range(kills):
        process = subprocess.Popen(
            command("run", recipe, "--out", tmp_path / "run", "--log"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        seen = 0
        for line in process.stdout:
            seen += b'"step"' in line
            if seen > 35 + 45 * number:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        process.wait()
    result = tonsor("run", recipe, "--out", tmp_path / "run", "--quiet")
    assert result.returncode == 0, result.stderr
    assert weights_of(tmp_path / "run") == weights_of(done)


def test_two_workers_move_the_same_masks(tmp_path):
    result = tonsor("run", write(tmp_path, TEXT), "--out", tmp_path / "run", "--workers", 2)
    assert result.returncode == 0, result.stderr  # replicas are compared after each stage, bit for bit
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["workers"] == 2
    assert report["models"]["masked"]["accuracy"] > 0.85
