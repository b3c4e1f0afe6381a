"""`tonsor compare`: the states of one run measured together, and runs side by side."""

import json
import shutil
import sys
from functools import partial

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from small import RECIPE
from tonsor.cli import app
from tonsor.pack import load, swap_sparse_, unpack
from tonsor.recipe import extra_states
from tonsor.recipe.comparing import Question, compare_states, open_finished, read_batches
from tonsor.recipe.context import Run
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.read import read_recipe
from tonsor.recipe.run import run_recipe

pytestmark = pytest.mark.slow
PASSES = "epochs = 1\nevery = 10\n"
SECTIONS = "[pack]\nepochs = 0\n\n[report]\nrounds = 1\ntrust = false\n"
QUICK = RECIPE.partition("[export]")[0].replace("epochs = 2\nevery = 10\n", PASSES) + SECTIONS
STATES = ["dense", "masked", "shrunk", "packed", "sparse", "int8"]
FEW = Question(batches=(1, 4), rounds=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a finished run."""
    path = tmp_path_factory.mktemp("compare")
    (path / "small.toml").write_text(QUICK.replace("epochs = 6", "epochs = 4"))
    run_recipe(Run(read_recipe(path / "small.toml"), RunFolder(path / "run")), QUICK)
    return path / "run"


@pytest.fixture(scope="module")
def figures(folder):
    """Return what a comparison of the run found."""
    return compare_states(open_finished(folder), FEW)


def sparse(folder, monkeypatch, **settings):
    """Return a comparison in which layers are swapped as settings say, not as this machine's times do."""
    monkeypatch.setattr(extra_states, "swap_sparse_", partial(swap_sparse_, seconds=0, **settings))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return compare_states(open_finished(folder), FEW, folder.parent / "elsewhere")


def test_all_states_are_measured_and_judged_on_the_test_data(folder, figures):
    report = json.loads((folder / "report.json").read_text())["models"]
    assert list(figures["models"]) == STATES
    for state, told in report.items():
        for key in ("accuracy", "loss", "parameters", "nonzeros", "macs", "bytes"):
            assert figures["models"][state][key] == told[key]
    for state, model in figures["models"].items():
        assert model["accuracy"] > 0.8, state
        assert list(model["latency_ms"]) == list(model["samples_per_second"]) == ["1", "4"]
        assert model["bytes"] == (folder / model["file"]).stat().st_size
        assert model["made"]
    shrunk, int8 = figures["models"]["shrunk"], figures["models"]["int8"]
    assert int8["parameters"] == shrunk["parameters"]
    assert 0.8 * shrunk["nonzeros"] < int8["nonzeros"] <= shrunk["nonzeros"]
    assert int8["weight_bytes"] < 0.5 * shrunk["weight_bytes"] == 2 * shrunk["parameters"]
    assert int8["activation_bytes"] is None
    assert any(note.startswith("int8: what a pass takes in memory") for note in figures["notes"])
    assert figures["settings"] == {"batches": [1, 4], "rounds": 2, "threads": 1, "device": "cpu"}
    assert "onnxruntime" in figures["versions"]


def test_figures_and_page_lie_in_the_run_which_still_counts_as_done(folder, figures):
    assert json.loads((folder / "compare.json").read_text()) == figures
    page = (folder / "compare.html").read_text()
    assert page.count("<svg") == 2
    assert all(f"</i>{state}</th>" in page for state in STATES)
    assert open_finished(folder).folder.receipt("report") is not None


def test_a_swapped_layer_counts_its_nonzeros_alone(folder, monkeypatch):
    found = sparse(folder, monkeypatch, ways=("kernel",), densest=1.0)
    of, packed = found["models"]["sparse"], found["models"]["packed"]
    assert [layer["swapped"] for layer in found["layers"]] == [True] * 3
    held = unpack(load(folder / "pack" / "small.tonsor"))
    assert of["macs"] == sum(int(tensor.count_nonzero()) for tensor in held.values() if tensor.ndim == 2)
    assert (of["parameters"], of["nonzeros"], of["bytes"]) == tuple(
        packed[key] for key in ("parameters", "nonzeros", "bytes")
    )
    assert of["accuracy"] == packed["accuracy"]
    assert of["weight_bytes"] != packed["weight_bytes"]
    assert of["made"].startswith("3 of 3 layers swapped")


def test_where_no_layer_is_faster_sparse_the_column_stays_and_says_so(folder, monkeypatch):
    found = sparse(folder, monkeypatch, ways=("dense",))
    of, packed = found["models"]["sparse"], found["models"]["packed"]
    assert [layer["swapped"] for layer in found["layers"]] == [False] * 3
    assert all(of[key] == packed[key] for key in ("macs", "accuracy", "weight_bytes", "activation_bytes"))
    assert any("no layer is faster sparse" in note for note in found["notes"])


def test_without_onnx_runtime_the_column_is_left_out_and_a_note_says_why(folder, monkeypatch):
    found = sparse(folder, monkeypatch, ways=("dense",))
    assert list(found["models"]) == STATES[:-1]
    (why,) = [note for note in found["notes"] if note.startswith("int8: left out: ")]
    assert "onnxruntime" in why
    assert (folder.parent / "elsewhere" / "compare.html").exists()


def test_a_model_that_cannot_be_swapped_or_exported_leaves_two_columns_out(folder, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("not this one")

    monkeypatch.setattr(extra_states, "swap_sparse_", refuse)
    monkeypatch.setattr(extra_states, "to_onnx_int8", refuse)
    found = compare_states(open_finished(folder), FEW, folder.parent / "elsewhere")
    assert list(found["models"]) == STATES[:4]
    assert found["notes"] == ["sparse: left out: not this one", "int8: left out: not this one"]


def test_the_command_prints_the_table_and_where_the_page_lies(folder):
    threads = torch.get_num_threads()
    told = CliRunner().invoke(
        app, ["compare", str(folder), "--batch", "2,1", "--batch", "2", "--rounds", "2"]
    )
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert lines[-1].endswith("compare.html")
    assert lines[lines.index("") + 1].split() == STATES
    assert [line.partition("  ")[0] for line in lines if line.startswith("latency")] == [
        "latency, batch 1",
        "latency, batch 2",
    ]
    assert "Medians of 2 rounds with 1 thread" in told.output
    assert torch.get_num_threads() == threads


def test_several_runs_stand_side_by_side_and_are_written_where_out_says(folder, tmp_path):
    other = tmp_path / "copy"
    other.mkdir()
    shutil.copy(folder / "report.json", other)
    told = CliRunner().invoke(app, ["compare", str(folder), str(other), "--out", str(tmp_path / "both")])
    assert told.exit_code == 0, told.output
    rows = json.loads((tmp_path / "both" / "compare.json").read_text())["runs"]
    assert [row["model"] for row in rows] == 2 * STATES[:4]
    assert str(other) in (tmp_path / "both" / "compare.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-run"], "no-such-run holds no run; give the folder of a finished one"),
        (["RUN", "--batch", "1,x"], "--batch must be numbers of 1 or more, as 1,8,64; got '1,x'"),
        (["RUN", "--batch", "0"], "--batch must be numbers of 1 or more"),
        (["RUN", "RUN", "--rounds", "3"], "go with one run, not with several"),
        (["RUN", "--device", "cpux"], "unknown device 'cpux'; did you mean 'cpu'?"),
        (["RUN", "no-such-run"], "no-such-run holds no report.json"),
    ],
)
def test_mistakes_are_told(folder, arguments, told):
    words = [str(folder) if word == "RUN" else word for word in arguments]
    found = CliRunner().invoke(app, ["compare", *words])
    assert found.exit_code == 1
    assert isinstance(found.exception, ValueError)
    assert told in str(found.exception)


def test_a_run_that_is_not_finished_is_refused_with_the_stage_that_lacks(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "pack" / "receipt.json").unlink()
    with pytest.raises(ValueError, match="stage 'pack' of the run is not done; finish it with tonsor run"):
        open_finished(tmp_path / "run")


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"batches": (1, 0)}, {"rounds": 0}, {"threads": -1}])
def test_a_question_that_measures_nothing_is_refused(folder, wrong):
    with pytest.raises(ValueError, match="name batches of 1 or more"):
        compare_states(open_finished(folder), Question(**wrong))


def test_batches_may_be_given_in_any_way():
    assert read_batches(["8, 1", "64", "8"]) == (1, 8, 64)


@pytest.mark.parametrize(("axis", "zero"), [(0, [1, 2]), (1, [1, 2, 0]), (None, 1), (None, None)])
def test_the_zeros_of_an_int8_file_are_where_its_zero_points_say(tmp_path, axis, zero):
    """Two rows, three columns; what is equal to its zero point stands for a zero."""
    weight = torch.tensor([[1, 2, 0], [1, 2, 2]], dtype=torch.int8)
    taken = torch.tensor(0 if zero is None else zero, dtype=torch.int8)
    shaped = taken.view(-1, 1) if axis == 0 else taken
    held = {"w": weight, "s": torch.ones(taken.shape), "b": torch.tensor([0.5, 0.0]), "c": torch.tensor(2.0)}
    if zero is not None:
        held["z"] = taken
    node = helper.make_node(
        "DequantizeLinear",
        ["w", "s", *(["z"] if zero is not None else [])],
        ["d"],
        axis=1 if axis is None else axis,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [],
        [helper.make_tensor_value_info("d", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in held.items()],
    )
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    found = extra_states._numbers(tmp_path / "a.onnx")
    assert found["parameters"] == 6 + 2
    assert found["nonzeros"] == int((weight != shaped).sum()) + 1
