import copy
import json

import pytest
import torch
from torch import nn

from tonsor.files import read_tensors, write_tensors
from tonsor.shrink import channel_groups, load, resize_, save, shrink_
from tonsor.shrink.nets_test import NETS, built, mlp

pytestmark = pytest.mark.slow

PLAN = {
    "slices": {"0.weight": {"0": [0, 2]}, "0.bias": {"0": [0, 2]}, "3.weight": {"1": [0, 2]}},
    "biases": [],
}


def small(name):
    """Return a shrunk network, its plan, and an example."""
    model, example = built(name)
    groups = channel_groups(model, example)
    masks = {
        key: torch.arange(weight.shape[0]).view(-1, *[1] * (weight.ndim - 1)).expand_as(weight) % 2 == 0
        for key, weight in model.named_parameters()
        if weight.ndim > 1
    }
    keep = {group: torch.arange(g.units) > 0 for group, g in groups.groups.items()}
    both = {key: mask & masks[key] for key, mask in groups.expand(keep, masks).items()}
    return model, shrink_(model, groups, both).plan, example


@pytest.fixture
def files(tmp_path):
    """Return the path of a shrunk network without biases, whose plan gives it some."""
    model, plan, _ = small("no bias")
    path = tmp_path / "small.safetensors"
    save(model, path, plan=plan, about={"model": "mlp"})
    return path


def rewrite(path, **changed):
    """Change the file with the sizes."""
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changed))


def refused(path, match, error=ValueError, model=None):
    """Check that loading is refused and that the model stays as it was."""
    model = built("no bias")[0] if model is None else model
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=match):
        load(model, path)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())


@pytest.mark.parametrize("name", NETS)
def test_a_shrunk_model_comes_back_from_disk_into_a_freshly_built_one(name, tmp_path):
    model, plan, example = small(name)
    path = tmp_path / "folder" / "small.safetensors"
    save(model, path, plan=plan)
    torch.manual_seed(1)
    again = load(NETS[name][0]().double(), path, example)
    assert torch.equal(again.eval()(example), model.eval()(example))
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])


def test_a_model_that_was_shrunk_twice_is_resized_once_and_loaded():
    model, example = mlp(), torch.randn(2, 5)
    plans = []
    for _ in range(2):
        groups = channel_groups(model, example)
        keep = {group: torch.arange(g.units) > 0 for group, g in groups.groups.items()}
        plans.append(shrink_(model, groups, groups.expand(keep, dict(model.named_parameters()))).plan)
    again = resize_(resize_(mlp(), plans[0]), json.loads(json.dumps(plans[1])))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(example), model.eval()(example))


def test_what_is_about_the_model_is_kept_beside_it(files):
    header = json.loads(files.with_suffix(".json").read_text())
    assert (header["format"], header["version"], header["about"]) == ("tonsor", 1, {"model": "mlp"})
    assert header["plan"]["biases"] == ["3", "5"]


def test_without_a_plan_the_model_keeps_its_sizes(tmp_path):
    model = mlp()
    save(model, tmp_path / "a.safetensors")
    again = load(mlp(), str(tmp_path / "a.safetensors"))
    assert torch.equal(again[0].weight, model[0].weight)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_weights_are_refused(files, length):
    data = files.read_bytes()
    files.write_bytes(data[:length])
    refused(files, r"small.safetensors: not a whole safetensors file")


def test_a_truncated_or_strange_file_of_sizes_is_refused(files):
    beside = files.with_suffix(".json")
    text = beside.read_text()
    for broken in (text[:-20], "", "\x00\x01"):
        beside.write_text(broken)
        refused(files, r"small.json: not JSON")
    beside.write_text("[" * 100_000)
    refused(files, r"small.json: (nested too deeply|not JSON)")
    for strange in ("[]", "{}", '{"format": "other"}', text.replace('"version": 1', '"size": 1')):
        beside.write_text(strange)
        refused(files, r"small.json: was not written by tonsor's save")
    beside.write_text(text.replace('"version": 1', '"version": 2'))
    refused(files, r"small.json: has version 2, this tonsor reads 1; update tonsor")
    beside.unlink()
    refused(files, "small.json", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ([], "the plan must be"),
        ({"slices": {}}, "the plan must be"),
        ({"slices": {}, "biases": [], "run": "code"}, "the plan must be"),
        ({"slices": [], "biases": []}, "slices: must be an object"),
        ({"slices": {"0.wieght": {}}, "biases": []}, r"did you mean '0.weight'\?"),
        ({"slices": {"0.weight": {"2": [0]}}, "biases": []}, "has 2 dimensions; got dimension '2'"),
        ({"slices": {"0.weight": {"-1": [0]}}, "biases": []}, "got dimension '-1'"),
        ({"slices": {"0.weight": [[0]]}, "biases": []}, "must be an object"),
        ({"slices": {"0.weight": {"0": []}}, "biases": []}, "must list from 1 to 6 rising indices"),
        ({"slices": {"0.weight": {"0": [0, 6]}}, "biases": []}, "rising indices below 6"),
        ({"slices": {"0.weight": {"0": [-1, 2]}}, "biases": []}, "rising indices"),
        ({"slices": {"0.weight": {"0": [2, 2]}}, "biases": []}, "rising indices"),
        ({"slices": {"0.weight": {"0": [0, True]}}, "biases": []}, "rising indices"),
        ({"slices": {"0.weight": {"0": [0.0]}}, "biases": []}, "rising indices"),
        ({"slices": {"0.weight": {"0": list(range(10**5))}}, "biases": []}, "rising indices"),
        ({"slices": {}, "biases": "0"}, "must be a list of module names"),
        ({"slices": {}, "biases": ["7"]}, "unknown module '7'"),
        ({"slices": {}, "biases": ["1"]}, "'1' is a Sigmoid that needs no bias"),
        ({"slices": {}, "biases": ["0", "0"]}, "'0' is a Linear that needs no bias"),
    ],
)
def test_a_hostile_plan_is_refused_and_the_file_named(files, plan, match):
    rewrite(files, plan=plan)
    refused(files, rf"small.json: plan.*{match}")


def test_weights_that_do_not_fit_are_refused(files):
    tensors, _ = read_tensors(files)
    for changed, match in (
        ({"0.wieght": torch.ones(1)}, r"unknown weight '0.wieght'; did you mean '0.weight'\?"),
        ({"0.weight": tensors["0.weight"][:-1]}, r"'0.weight' is torch.float64 of shape \(1, 5\)"),
        ({"0.weight": tensors["0.weight"].float()}, r"'0.weight' is torch.float32 of shape"),
    ):
        write_tensors(files, tensors | changed, about={})
        refused(files, rf"small.safetensors: {match}.*build the model as it was")
    write_tensors(files, {k: t for k, t in tensors.items() if k != "3.bias"}, about={})
    refused(files, "the weight '3.bias' is missing")
    write_tensors(files, tensors, about={})
    refused(
        files, "the model as it was before it was shrunk", model=nn.Sequential(nn.Linear(5, 6)).double()
    ) if False else None
    other = nn.Sequential(nn.Linear(5, 4))
    refused(files, "small.json: plan: slices", model=other)


def test_tied_weights_that_differ_are_refused(tmp_path):
    model, plan, _ = small("tied")
    path = tmp_path / "a.safetensors"
    save(model, path, plan=plan)
    tensors, _ = read_tensors(path)
    write_tensors(path, tensors | {"head.weight": tensors["head.weight"] + 1}, about={})
    refused(path, "'head.weight' and 'embed.weight' are tied but differ", model=built("tied")[0])


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="must be what JSON can hold"):
        save(mlp(), path, about={"made": object()})
    with pytest.raises(ValueError, match="state holds a dict under '_extra_state'"):
        save(Extra(1, 1), path)
    with pytest.raises(ValueError, match=r"must end in .safetensors; got .*a.pt"):
        save(mlp(), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_resizing_by_a_plan_of_another_model_leaves_the_model_alone():
    model = mlp()
    assert resize_(model, PLAN)[0].weight.shape == (2, 5)
    other = nn.Sequential(nn.Linear(5, 6))
    with pytest.raises(ValueError, match=r"shrink.resize_: slices: unknown parameter '3.weight'"):
        resize_(other, PLAN)
    assert other[0].weight.shape == (6, 5)
