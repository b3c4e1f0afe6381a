"""The pack stage, and the commands `pack` and `unpack`."""

import json

import pytest
import torch
from typer.testing import CliRunner

from small import RECIPE, tonsor, write
from tonsor import pack
from tonsor.cli import app
from tonsor.examples.models import mlp
from tonsor.files import read_tensors, write_tensors
from tonsor.recipe.build import check_rules
from tonsor.recipe.packed_files import read_bits, read_plan, unpack_file
from tonsor.recipe.read import RecipeError, read_recipe
from tonsor.shrink import load

PACK = '[pack]\nbits = { "*.weight" = 4, "*.bias" = 6 }\n\n[export]\nformats = ["safetensors"]\n'
PACKED = RECIPE.replace("[export]\n", PACK).replace("rounds = 5", "rounds = 3\ntrust = false")


@pytest.mark.slow
def test_a_recipe_packs_the_small_model_and_the_file_gives_it_back(tmp_path):
    result = tonsor("run", write(tmp_path, PACKED), "--out", tmp_path / "run", "--quiet")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    models = report["models"]
    assert models["packed"]["bytes"] == (tmp_path / "run" / "pack" / "small.tonsor").stat().st_size
    assert models["packed"]["bytes"] < models["shrunk"]["bytes"] / 3
    assert models["packed"]["accuracy"] > models["shrunk"]["accuracy"] - 0.03
    assert report["pack"]["bytes"] == models["packed"]["bytes"]
    assert "packed" in (tmp_path / "run" / "report.html").read_text()
    exported, _ = read_tensors(tmp_path / "run" / "export" / "small.safetensors")
    unpacked = pack.unpack(pack.load(tmp_path / "run" / "pack" / "small.tonsor"))
    assert all(torch.equal(exported[name], tensor) for name, tensor in unpacked.items())
    assert len(unpacked["1.weight"][unpacked["1.weight"] != 0].unique()) <= 15
    out = tmp_path / "small.safetensors"
    assert unpack_file(tmp_path / "run" / "pack" / "small.tonsor", out) == [out, out.with_suffix(".json")]
    model = load(mlp(sizes=[64, 32, 16, 10]), out)
    assert torch.equal(model.state_dict()["1.weight"], unpacked["1.weight"])


@pytest.mark.slow
def test_a_recipe_packs_within_a_budget_of_bytes(tmp_path):
    text = RECIPE.partition("[[prune]]")[0].replace("epochs = 6", "epochs = 1")
    text += "[pack]\nmax_bytes = 2000\ncalibration = 2\nepochs = 1\n\n[report]\nrounds = 1\ntrust = false\n"
    result = tonsor("run", write(tmp_path, text), "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "pack: bits found: " in result.stdout
    packed = pack.load(tmp_path / "run" / "pack" / "small.tonsor")
    assert packed.bytes <= 2000 + 200  # trained values need not be halves; codes stay as they were


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("pack.bits=9", "less than or equal to 8"),
        ('pack.sharing="kmean"', "unknown rule 'kmean'; did you mean 'kmeans'"),
        ('pack.sharing={rule="kmeans", groups=0}', "groups must be at least 1"),
        ('pack.sharing={rule="kmeans", bits=3}', "give the bits as a key of [pack]"),
        ("pack.max_bytes=100", "give one of the keys 'bits', 'max_bytes' and 'max_rise'"),
        ('pack.positions=["bits"]', "pack.positions"),
    ],
)
def test_a_mistake_in_the_section_is_told(change, told, tmp_path):
    with pytest.raises(RecipeError) as caught:
        check_rules(read_recipe(write(tmp_path, PACKED), [change]))
    assert told in str(caught.value)


def test_the_commands_pack_and_unpack_a_file(tmp_path):
    torch.manual_seed(0)
    tensors = {"a.weight": torch.randn(40, 50) * (torch.rand(40, 50) < 0.1), "a.bias": torch.randn(40)}
    path, packed = tmp_path / "model.safetensors", tmp_path / "model.tonsor"
    write_tensors(path, tensors, about={})
    run = CliRunner()
    told = run.invoke(app, ["pack", str(path)])
    assert told.exit_code == 0
    assert "a.weight" in told.output
    assert str(packed) in told.output.replace("\n", "")
    told = run.invoke(app, ["unpack", str(packed), "--out", str(tmp_path / "back.safetensors")])
    assert told.exit_code == 0
    back, _ = read_tensors(tmp_path / "back.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    lossless = packed.stat().st_size
    assert run.invoke(app, ["pack", str(path), "--bits", "*.weight=3", "--bits", "*.bias=5"]).exit_code == 0
    assert packed.stat().st_size < lossless / 1.5
    assert run.invoke(app, ["pack", str(path), "--max-bytes", "400"]).exit_code == 0
    assert pack.load(packed).bytes <= 400
    told = run.invoke(app, ["pack", str(path), "--sharing", "kmean"])
    assert "did you mean 'kmeans'" in str(told.exception)


def test_bits_and_plans_that_cannot_be_read_are_told():
    for wrong in (["x"], ["a="], ["4", "5"], ["*.w=3", "4"]):
        with pytest.raises(ValueError, match="--bits must be a number"):
            read_bits(wrong)
    for wrong in ("%", "", "bm8=", "eNoDAAAAAAE="):
        with pytest.raises(ValueError, match="the packed file's plan cannot be read"):
            read_plan(wrong)
