"""`tonsor fit`, as a user calls it."""

import json
import re
import signal
import subprocess
import time

import pytest
import torch

from small import RECIPE, command, environment, tonsor, write
from tonsor.examples import digits, mlp
from tonsor.shrink import load

pytestmark = pytest.mark.slow
DENSE = RECIPE.partition("[[prune]]")[0]


def accuracy(model, part):
    inputs, targets = digits()[part].tensors
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).double().mean())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of a recipe that was fitted to 1.5 kB and trained on, and what was printed."""
    folder = tmp_path_factory.mktemp("done")
    limits = ("--bytes", "1.5k", "--tune", "2", "--candidates", "4")
    result = tonsor("fit", write(folder, DENSE), "--out", folder / "run", *limits)
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_a_recipe_is_trained_and_its_small_file_keeps_the_budget(done):
    folder, printed = done
    pick = json.loads((folder / "fit" / "fit.json").read_text())["pick"]
    picked = folder / "fit" / "picked.tonsor"
    assert picked.stat().st_size == pick["bytes"] <= 1500
    assert printed.splitlines()[-1] == str(picked)
    assert re.search(rf"\n \* .* {pick['bytes']:,} .* {pick['metric']:.4f} ", printed)
    assert "the best metric of the" in printed
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"train", "fit"}
    assert not list((folder / "fit").glob("checkpoints*"))
    assert any("tuned-2" in path.name for path in (folder / "fit" / "candidates").iterdir())


def test_what_is_unpacked_is_the_model_that_was_measured(done, tmp_path):
    folder, _ = done
    pick = json.loads((folder / "fit" / "fit.json").read_text())["pick"]
    result = tonsor("unpack", folder / "fit" / "picked.tonsor", "--out", tmp_path / "a.safetensors")
    assert result.returncode == 0, result.stderr
    if (tmp_path / "a.json").exists():
        model = load(mlp(sizes=(64, 32, 16, 10)), tmp_path / "a.safetensors")
        assert accuracy(model, "valid") == pick["metric"]


def test_a_run_goes_on_where_ctrl_c_stopped_it_without_doing_rows_again(done):
    folder, _ = done
    arguments = ("fit", folder, "--max-loss", "2.5", "--candidates", "3")
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, env=environment())
    candidates = folder / "fit" / "candidates"
    while process.poll() is None and len(list(candidates.glob("cut-*-fall-*.json"))) < 1:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert re.search(r"stopped after \d+ candidates; to go on: tonsor fit", told)
    before = {path: path.stat().st_mtime_ns for path in candidates.iterdir()}
    result = tonsor(*arguments)
    assert result.returncode == 0, result.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    figures = json.loads((folder / "fit" / "fit.json").read_text())
    assert figures["pick"]["fall"] <= 2.5
    assert figures["pick"]["bytes"] == min(row["bytes"] for row in figures["rows"] if row["fall"] <= 2.5)
    assert "the smallest file of the" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give a budget: --bytes 40k, --latency-ms 2, --max-loss 0.5"),
        (("--bytes", "many"), "--bytes must be a number of bytes such as 40000"),
        (("--latency-ms", "0"), "latency_ms must be above 0"),
        (
            ("--bytes", "100", "--candidates", "2"),
            "foreseen to keep the budget|no candidate keeps the budget",
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(done, arguments, told):
    result = tonsor("fit", done[0], *arguments)
    assert result.returncode == 1
    assert re.search(told, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
