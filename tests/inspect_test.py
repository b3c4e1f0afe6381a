"""`tonsor inspect sensitivity`, as a user calls it."""

import json
import re
import signal
import subprocess

import pytest
import torch

from small import RECIPE, command, environment, files_of, tonsor, write
from tonsor.examples import digits, mlp
from tonsor.files import read_tensors

pytestmark = pytest.mark.slow
FILES = {"sensitivity.json", "sensitivity.jsonl", "sensitivity.svg"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of a finished run that was inspected, and what the command printed."""
    folder = tmp_path_factory.mktemp("done")
    assert tonsor("run", write(folder), "--out", folder / "run").returncode == 0
    result = tonsor("inspect", "sensitivity", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_the_figures_are_those_of_the_dense_model_on_the_validation_data(done):
    figures = json.loads((done[0] / "sensitivity.json").read_text())
    model = mlp(sizes=(64, 32, 16, 10)).eval()
    model.load_state_dict(read_tensors(done[0] / "train" / "model.safetensors")[0])
    inputs, targets = digits()["valid"].tensors
    assert figures["part"] == "valid"
    for name, of in figures["weights"].items():
        weight = dict(model.named_parameters())[name].data
        before = weight.clone()
        for removed, loss in zip(of["removed"], of["loss"], strict=True):
            lowest = before.abs().flatten().sort(stable=True).indices[:removed]
            weight.view(-1)[lowest] = 0
            assert torch.nn.functional.cross_entropy(model(inputs), targets).item() == pytest.approx(
                loss, rel=1e-5
            )
            weight.copy_(before)


def test_the_suggestion_is_within_its_bound_and_printed(done):
    folder, printed = done
    suggestion = json.loads((folder / "sensitivity.json").read_text())["suggestion"]
    dense = json.loads((folder / "sensitivity.json").read_text())["dense"]["loss"]
    assert suggestion["loss"] <= dense * 1.05 + 1e-9
    assert suggestion["sparsity"] > 0.2
    assert f"{suggestion['sparsity']:.1%}" in printed
    assert printed.splitlines()[-1] == str(folder / "sensitivity.svg")
    for name, sparsity in suggestion["sparsities"].items():
        assert re.search(rf"{re.escape(name)} .* {sparsity:.1%}", printed)


def test_the_report_shows_the_scan_and_the_run_still_counts_as_done(done):
    folder, _ = done
    assert 'id="plot-sensitivities"' in (folder / "report.html").read_text()
    assert files_of(folder) > FILES
    again = tonsor("run", folder.parent / "small.toml", "--out", folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 6
    page = (folder / "report.html").read_text()
    assert tonsor("report", folder).returncode == 0
    assert (folder / "report.html").read_text() == page
    (folder / "report" / "receipt.json").unlink()
    assert tonsor("run", folder.parent / "small.toml", "--out", folder, "--quiet").returncode == 0
    assert 'id="plot-sensitivities"' in (folder / "report.html").read_text()


def test_a_recipe_is_trained_first_and_a_run_goes_on_from_there(tmp_path):
    recipe = write(tmp_path)
    made = tonsor("inspect", "sensitivity", recipe, "--out", tmp_path / "run", "--sparsity", "0.7")
    assert made.returncode == 0, made.stderr
    folders = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert folders == {"train"}
    assert " 70.0%" in made.stdout
    rest = tonsor("run", recipe, "--out", tmp_path / "run")
    assert rest.returncode == 0, rest.stderr
    assert re.search("train +done before", rest.stdout)


def test_ctrl_c_stops_and_the_scan_goes_on_to_the_same_figures(done, tmp_path):
    recipe = write(tmp_path, RECIPE.partition("[[prune]]")[0])
    (tmp_path / "slow.py").write_text(SLOW)
    arguments = (
        "inspect",
        "sensitivity",
        recipe,
        "--out",
        tmp_path / "run",
        "--set",
        'train.metric="slow:it"',
    )
    process = subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path
    )
    rows = tmp_path / "run" / "sensitivity.jsonl"
    while process.poll() is None and (not rows.exists() or rows.read_text().count("\n") < 5):
        pass
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert re.search(r"stopped after \d+ of 24 measurements; to go on: tonsor inspect sensitivity", told)
    assert files_of(tmp_path / "run").isdisjoint({"sensitivity.json"})
    known = rows.read_text().splitlines()
    assert 5 <= len(known) < 26
    assert tonsor(*arguments, cwd=tmp_path).returncode == 0
    assert rows.read_text().splitlines()[: len(known)] == known
    first, second = (
        json.loads((run / "sensitivity.json").read_text()) for run in (done[0], tmp_path / "run")
    )
    assert first["weights"] == second["weights"]


SLOW = """
import time
from tonsor.recipe.losses import accuracy
def it(outputs, targets):
    time.sleep(0.05)
    return accuracy(outputs, targets)
"""


def test_statistics_are_collected_where_the_importance_asks_for_them(done):
    before = (done[0] / "sensitivity.json").read_text()
    result = tonsor(
        "inspect", "sensitivity", done[0], "--importance", "wanda", "--max-loss", "9", "--pattern", "channel"
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads((done[0] / "sensitivity.json").read_text())
    assert (figures["importance"], figures["pattern"]) == ("wanda", "channel")
    assert figures["weights"] != json.loads(before)["weights"]
    assert figures["suggestion"]["sparsity"] == pytest.approx(0.98, abs=0.05)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--importance", "magnitud"], "did you mean 'magnitude'"),
        (["--set", "train.epochs=1"], "go with a recipe"),
        (["--sparsity", "0.999"], "the curves reach a sparsity of 0.98"),
        (["--max-loss", "-1"], "allowed to rise by 0 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(done, arguments, told):
    result = tonsor("inspect", "sensitivity", done[0], *arguments)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_without_a_trained_model_is_told(tmp_path):
    result = tonsor("inspect", "sensitivity", tmp_path)
    assert result.returncode == 1
    assert "holds no run with a trained model" in result.stderr
