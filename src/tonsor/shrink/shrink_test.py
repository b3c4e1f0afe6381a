import copy
import json
from dataclasses import asdict
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.cut import sliced
from tonsor.shrink.nets_sequence_test import Sequenced
from tonsor.shrink.nets_test import NETS, Hardcoded, built, mlp
from tonsor.tensors import apply_masks_


@cache
def prepared(name):
    """Return a network, its example and its groups; the network is to be copied."""
    model, example = built(name)
    return model, example, channel_groups(model, example)


def masked_copy(model, masks):
    """Return a copy with zeros written, in eval mode."""
    masked = copy.deepcopy(model).eval()
    apply_masks_(dict(masked.named_parameters(remove_duplicate=False)), masks)
    return masked


def fresh(example):
    """Return another input of the same kind."""
    if example.is_floating_point():
        return 2 * torch.randn_like(example) + 1
    return torch.randint(0, 11, example.shape)


def matrices(model):
    """Return the weights with at least two dimensions."""
    return {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}


@pytest.mark.parametrize("name", NETS)
@given(seed=st.integers(0, 10**6), sparsity=st.sampled_from([0.2, 0.5, 0.9]))
@settings(max_examples=4)
def test_a_model_without_masked_channels_computes_what_the_masked_one_does(name, seed, sparsity):
    torch.manual_seed(seed)
    start, example, groups = prepared(name)
    model = copy.deepcopy(start)
    keep = {group: torch.rand(g.units) >= sparsity for group, g in groups.groups.items()}
    masks = groups.expand(keep, matrices(model))
    masked = masked_copy(model, masks)
    shrunk = shrink_(model, groups, masks)
    x = fresh(example)
    torch.testing.assert_close(model.eval()(x), masked(x), rtol=1e-10, atol=1e-10)
    for group, stays in keep.items():  # more can go: what was read by a group that is gone but for one
        assert len(shrunk.removed.get(group, ())) >= min(int((~stays).sum()), len(stays) - 1)
    assert shrunk.before - shrunk.after == sum(p.numel() for p in start.parameters()) - sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize("name", NETS)
@given(seed=st.integers(0, 10**6), sparsity=st.sampled_from([0.6, 0.8, 0.95]), rows=st.booleans())
@settings(max_examples=4)
def test_unstructured_zeros_that_leave_neurons_idle_are_removed_with_them(name, seed, sparsity, rows):
    torch.manual_seed(seed)
    start, example, groups = prepared(name)
    model = copy.deepcopy(start)
    masks = {n: torch.rand(w.shape) >= sparsity for n, w in matrices(model).items()}
    if rows:  # whole rows go: the channels are constants, and their readers' biases take these
        masks = {n: m.flatten(1)[:, :1].expand_as(m.flatten(1)).reshape(m.shape) for n, m in masks.items()}
    masked = masked_copy(model, masks)
    shrink_(model, groups, masks)
    x = fresh(example)
    torch.testing.assert_close(model.eval()(x), masked(x), rtol=1e-9, atol=1e-9)


def test_a_residual_channel_goes_only_when_all_that_write_to_it_are_dead():
    model, example = built("residual")
    groups = channel_groups(model, example)
    rows = torch.arange(4) != 1
    shape = (4, 1, 1, 1)
    with torch.no_grad():
        model.stem.bias[1] = model.an.bias[1] = model.an.running_mean[1] = 0.0
    one = shrink_(copy.deepcopy(model), groups, {"stem.weight": rows.view(shape).expand(4, 2, 3, 3)})
    assert one.removed == {}
    dead = {"stem.weight": rows.view(shape), "a2.weight": rows.view(shape)}
    assert shrink_(copy.deepcopy(model), groups, expanded(model, dead)).removed == {"stem.weight": [1]}


def expanded(model, masks):
    """Return masks at the full size of their weights."""
    weights = dict(model.named_parameters())
    return {name: mask.expand_as(weights[name]) for name, mask in masks.items()}


def test_one_unit_of_each_group_stays():
    model = mlp()
    groups = channel_groups(model, torch.randn(1, 5))
    none = {name: torch.zeros(g.units, dtype=torch.bool) for name, g in groups.groups.items()}
    shrunk = shrink_(model, groups, groups.expand(none, matrices(model)))
    assert [model[0].out_features, model[3].out_features] == [1, 1]
    assert shrunk.kept_back["0.weight"] == "1 unit: the last one of its group"


def test_where_nothing_can_go_nothing_changes():
    model, example = built("vgg")
    before = copy.deepcopy(model.state_dict())
    shrunk = shrink_(model, channel_groups(model, example))
    assert shrunk.removed == {}
    assert shrunk.plan == {"slices": {}, "biases": []}
    assert shrunk.before == shrunk.after
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_view_with_a_number_is_written_anew_and_the_model_stays_the_object_it_is():
    model = Hardcoded()
    groups = channel_groups(model, torch.randn(1, 1, 4, 4))
    keep = {name: torch.arange(g.units) > 0 for name, g in groups.groups.items()}
    objects = list(model.parameters())
    masks = groups.expand(keep, matrices(model))
    masked = masked_copy(model, masks)
    shrunk = shrink_(model, groups, masks)
    assert "numbers that are sizes there: 16 in" in shrunk.rewritten
    assert "the forward runs the rewritten graph" in str(shrunk)
    assert all(a is b for a, b in zip(objects, model.parameters(), strict=True))
    for x in (torch.randn(1, 1, 4, 4), torch.randn(3, 1, 4, 4)):
        torch.testing.assert_close(model(x), masked(x))
    again = copy.deepcopy(model)
    again.head.bias.data += 1.0
    assert not torch.equal(again(x), model(x))
    with pytest.raises(ValueError, match="takes arguments as its example had them"):
        model(x, x)


def test_a_size_used_as_a_number_is_noticed_by_the_proof_and_kept():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            return self.b(h / h.shape[1])

    model = Mean()
    groups = channel_groups(model, torch.randn(2, 3))
    masks = groups.expand({"a.weight": torch.arange(4) > 0}, dict(model.named_parameters()))
    masked = masked_copy(model, masks)
    shrunk = shrink_(model, groups, masks)
    assert "differs from the masked model's by" in shrunk.rewritten
    torch.testing.assert_close(model(torch.ones(5, 3)), masked(torch.ones(5, 3)))


def test_what_cannot_be_made_equal_is_refused_by_name_and_the_model_is_left_bit_by_bit(monkeypatch):
    def wrong(tensor, kept):
        return torch.zeros_like(sliced(tensor, kept))

    monkeypatch.setattr("tonsor.shrink.cut.sliced", wrong)
    model = nn.Sequential()
    model.a, model.b = nn.Linear(3, 4), nn.Linear(4, 2)
    before = copy.deepcopy(model.state_dict())
    groups = channel_groups(model, torch.randn(2, 3))
    masks = groups.expand({"a.weight": torch.arange(4) > 0}, matrices(model))
    with pytest.raises(ValueError, match=r"differs from the masked model's by .*blame: 'a.weight' \("):
        shrink_(model, groups, masks)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_group_that_cannot_be_made_equal_stays_and_the_others_go(monkeypatch):
    def wrong(tensor, kept):
        small = sliced(tensor, kept)
        return torch.zeros_like(small) if len(tensor) == 7 and 0 in kept else small

    monkeypatch.setattr("tonsor.shrink.cut.sliced", wrong)
    model = mlp()
    groups = channel_groups(model, torch.randn(2, 5))
    keep = {name: torch.arange(group.units) > 0 for name, group in groups.groups.items()}
    masks = groups.expand(keep, dict(model.named_parameters()))
    masked = masked_copy(model, masks)
    shrunk = shrink_(model, groups, masks)
    assert shrunk.removed == {"0.weight": [0]}
    assert shrunk.kept_back["3.weight"].startswith("1 unit: cut, its output 0 differs")
    x = torch.randn(3, 5)
    torch.testing.assert_close(model.eval()(x), masked(x))


def test_masks_and_groups_of_another_model_are_refused():
    groups = channel_groups(mlp(), torch.randn(1, 5))
    with pytest.raises(ValueError, match=r"'0.weight' has shape \(6, 5\); here it is \(2, 5\)"):
        shrink_(nn.Sequential(nn.Linear(5, 2)), groups)
    with pytest.raises(ValueError, match=r"unknown parameter '0.wheight'; did you mean '0.weight'\?"):
        shrink_(mlp(), groups, {"0.wheight": torch.ones(6, 5, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"must be boolean of shape \(6, 5\); got torch.float32"):
        shrink_(mlp(), groups, {"0.weight": torch.ones(6, 5)})


def test_idle_inputs_and_the_frozen_are_told_and_all_of_it_is_json():
    model = Sequenced()
    groups = channel_groups(model, torch.randn(1, 3, 5))
    mask = torch.ones(8, 5, dtype=torch.bool)
    mask[:, 2] = False
    shrunk = shrink_(model, groups, {"first.weight": mask})
    assert shrunk.kept_back == {"first.weight dim 1": "1 unit: model input"}
    told = json.loads(json.dumps(asdict(shrunk)))
    assert told["groups"][0] == {"name": "first.weight", "units": 8, "removed": 0, "parameters_per_unit": 10}
    assert {"name": "head.weight", "units": 2, "why": "model output"} in told["frozen"]
    assert "took" not in str(shrunk)
