"""The main job, end to end, as a user calls it."""

import json
import re
import signal
import subprocess

import pytest

from small import RECIPE, command, environment, files_of, tonsor, weights_of, write
from tonsor.examples import digits, mlp
from tonsor.shrink import load

pytestmark = pytest.mark.slow

FILES = {
    "recipe.toml",
    "settings.json",
    "report.json",
    "report.html",
    *(f"{stage}/{name}" for stage in ("train", "finetune") for name in ("model.safetensors", "history.json")),
    *(f"prune/{name}" for name in ("model.safetensors", "history.json", "masks.safetensors")),
    *(f"shrink/model.{kind}" for kind in ("safetensors", "json")),
    *(f"export/small.{kind}" for kind in ("safetensors", "json", "onnx")),
    *(f"{stage}/receipt.json" for stage in ("train", "prune", "finetune", "shrink", "export", "report")),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of a finished run and what the command printed."""
    folder = tmp_path_factory.mktemp("done")
    result = tonsor("run", write(folder), "--out", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_the_run_leaves_its_files_and_no_others(done):
    assert files_of(done[0]) == FILES


def test_the_model_is_really_smaller_and_still_good(done):
    report = json.loads((done[0] / "report.json").read_text())
    dense, masked, small = (report["models"][name] for name in ("dense", "masked", "shrunk"))
    assert dense["accuracy"] > 0.9
    assert masked["accuracy"] > dense["accuracy"] - 0.05
    assert small["accuracy"] == masked["accuracy"]
    assert small["parameters"] < dense["parameters"] == masked["parameters"]
    assert small["bytes"] < 0.7 * dense["bytes"]
    assert small["macs"] < 0.7 * dense["macs"]
    assert masked["nonzeros"] < 0.25 * dense["nonzeros"]
    assert report["shrink"]["max_difference"] < 1e-5
    assert {"1", "64"} == set(small["latency_ms"])
    assert {e["format"] for e in report["export"]} == {"safetensors", "onnx"}
    assert (done[0] / "export" / "small.onnx").stat().st_size > 1000


def test_the_small_model_loads_into_a_freshly_built_one(done):
    fresh = mlp(sizes=(64, 32, 16, 10))
    model = load(fresh, done[0] / "export" / "small.safetensors").eval()
    inputs, targets = digits()["test"].tensors
    report = json.loads((done[0] / "report.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == report["models"]["shrunk"]["parameters"]
    right = (model(inputs).argmax(1) == targets).double().mean().item()
    assert right == report["models"]["shrunk"]["accuracy"]


def test_exactly_the_asked_share_is_removed(done):
    report = json.loads((done[0] / "report.json").read_text())
    total = sum(layer["weights"] for layer in report["layers"])
    kept = sum(layer["nonzeros"] for layer in report["layers"])
    assert total - kept == round(0.8 * total)


def test_the_terminal_shows_stages_table_and_place(done):
    folder, printed = done
    assert re.search(r"train +144 steps +loss [\d.]+ +norm [\d.]+ +clipped \d+% +valid 0\.9", printed)
    assert re.search(r"accuracy +0\.9\d+ +0\.9\d+ +0\.9\d+", printed)
    assert printed.strip().splitlines()[-1] == str(folder / "report.html")


def test_a_finished_run_is_not_run_again(done):
    before = weights_of(done[0])
    again = tonsor("run", done[0].parent / "small.toml", "--out", done[0], "--quiet")
    assert again.stdout.strip() == str(done[0] / "report.html")
    assert weights_of(done[0]) == before


def test_the_report_is_redrawn_from_its_figures(done):
    page = done[0] / "report.html"
    before = page.read_text()
    page.write_text("")
    assert tonsor("report", done[0]).stdout.strip() == str(page)
    assert page.read_text() == before


def test_runs_are_put_side_by_side(done):
    printed = tonsor("compare", done[0], done[0]).stdout
    assert len([line for line in printed.splitlines() if " shrunk " in line]) == 1
    other = done[0].parent / "copy"
    other.mkdir()
    (other / "report.json").write_text((done[0] / "report.json").read_text())
    printed = tonsor("compare", done[0], other).stdout
    assert len([line for line in printed.splitlines() if " shrunk " in line]) == 2


def test_the_same_recipe_gives_the_same_bits(done, tmp_path):
    tonsor("run", write(tmp_path), "--out", tmp_path / "run", "--quiet")
    assert weights_of(tmp_path / "run") == weights_of(done[0])


def test_every_event_is_a_line_of_json(tmp_path):
    text = RECIPE.partition("[[prune]]")[0]
    printed = tonsor("run", write(tmp_path, text), "--out", tmp_path / "run", "--log").stdout
    events = [json.loads(line) for line in printed.splitlines()]
    assert [e["stage"] for e in events if e["event"] == "begin"] == ["train", "report"]
    steps = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, 145))
    assert {"loss", "norm", "threshold", "clipped", "lr", "sparsity", "of", "time"} <= set(steps[0])


@pytest.mark.parametrize("kills", [3])
def test_killed_and_run_again_it_ends_with_the_same_bits(done, tmp_path, kills):
    recipe = write(tmp_path)
    for number in range(kills):
        process = subprocess.Popen(
            command("run", recipe, "--out", tmp_path / "run", "--log"),
            stdout=subprocess.PIPE,
            env=environment(),
        )
        seen = 0
        for line in process.stdout:
            seen += b'"step"' in line
            if seen > 35 + 40 * number:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    result = tonsor("run", recipe, "--out", tmp_path / "run", "--quiet")
    assert result.returncode == 0, result.stderr
    assert weights_of(tmp_path / "run") == weights_of(done[0])
    assert files_of(tmp_path / "run") == FILES


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(done, tmp_path):
    arguments = ("run", write(tmp_path), "--out", tmp_path / "run", "--log")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    for line in process.stdout:
        if '"step": 25' in line:
            process.send_signal(signal.SIGINT)
            break
    _, told = process.communicate()
    assert process.returncode == 130
    assert re.search(r"stopped in train at step \d+ of 144; to go on: tonsor run .*small\.toml", told)
    assert tonsor(*arguments).returncode == 0
    assert weights_of(tmp_path / "run") == weights_of(done[0])


def test_two_workers_end_with_the_same_bits(tmp_path):
    compress = 'compress = { rule = "ErrorFeedback", compressor = { rule = "PowerSGD", rank = 2 } }\n'
    text = RECIPE.replace("checkpoint_every", compress + "checkpoint_every")
    normed = ("--set", "model.batch_norm=true")  # its running statistics differ from worker to worker
    result = tonsor("run", write(tmp_path, text), "--out", tmp_path / "run", "--workers", 2, *normed)
    assert result.returncode == 0, result.stderr
    sent, dense = re.search(
        r"train: each worker sent ([\d,]+) bytes .* uncompressed ([\d,]+)", result.stdout
    ).groups()
    assert 0 < int(sent.replace(",", "")) < 0.5 * int(dense.replace(",", ""))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["workers"] == 2
    assert report["models"]["shrunk"]["accuracy"] > 0.85
    receipt = json.loads((tmp_path / "run" / "train" / "receipt.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", receipt["weights"])  # compared over the workers, bit for bit
    assert files_of(tmp_path / "run") == FILES
