import copy
import inspect
from functools import partial

import pytest
import torch
from torch import nn

from tonsor.prune import (
    LAYER_RULES,
    alps,
    by_importance,
    collect,
    heal,
    prune_layerwise,
    sparsegpt,
    taylor,
    wanda,
)
from tonsor.prune.heal_test import attending, tokens
from tonsor.prune.sparsegpt_test import problem

rules = pytest.mark.parametrize("rule", LAYER_RULES.values(), ids=LAYER_RULES)


@rules
def test_a_layer_rule_obeys_the_one_law(rule):
    first = [p for p in inspect.signature(rule).parameters.values() if p.kind is p.POSITIONAL_ONLY]
    rest = [p for p in inspect.signature(rule).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert [p.name for p in first] == ["weight", "gram", "sparsity"]
    assert all(p.default is not p.empty for p in rest)
    assert "mean" in {p.name for p in rest}


@rules
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_layer_rule_keeps_shape_type_and_count_and_changes_nothing(rule, dtype):
    weight, gram = problem(6, 12)
    weight = weight.to(dtype).view(6, 4, 3)
    before = weight.clone()
    new, mask = rule(weight, gram, 0.5, mean=torch.zeros(1, 12))
    assert (new.shape, new.dtype, mask.dtype) == (weight.shape, dtype, torch.bool)
    assert int((~mask).sum()) == 36
    assert (new[~mask] == 0).all()
    assert torch.equal(weight, before)


@rules
def test_a_layer_rule_at_sparsity_zero_changes_nothing(rule):
    weight, gram = problem(6, 12)
    new, mask = rule(weight, gram, 0.0)
    assert mask.all()
    torch.testing.assert_close(new, weight, rtol=1e-5, atol=1e-6)


@rules
@pytest.mark.parametrize("target", ["dense", "current"])
def test_every_layer_is_pruned_to_its_sparsity_and_a_refit_helps(rule, target):
    bare, fitted = attending(), attending()
    masks, plain = prune_layerwise(bare, 0.5, tokens(), rule=rule, repair=None, target=target)
    for name, mask in masks.items():
        assert (bare.get_parameter(name)[~mask] == 0).all()
        assert float(mask.double().mean()) == 0.5
    assert "embedding.weight" not in masks
    _, better = prune_layerwise(fitted, 0.5, tokens(), rule=rule, target=target)
    assert sum(r.after for r in better) < sum(r.after for r in plain)


def test_the_first_layer_is_pruned_as_the_rule_does_it_on_its_own():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(50, 8)
    gram = collect(model, [(x, None)], names=["input_gram"])["0.weight"]["input_gram"]
    wanted, stays = sparsegpt(model[0].weight.detach(), gram, 0.5)
    masks, _ = prune_layerwise(model, 0.5, [(x, None)], repair=None, target="current")
    assert torch.equal(masks["0.weight"], stays)
    torch.testing.assert_close(model[0].weight.detach(), wanted)


def test_masks_found_one_by_one_and_healed_are_the_layerwise_weights():
    dense = attending()
    found, healed = copy.deepcopy(dense), copy.deepcopy(dense)
    masks, _ = prune_layerwise(found, 0.5, tokens(), rule=partial(by_importance, importance=wanda))
    heal(healed, masks, tokens())
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(healed.get_parameter(name), parameter, rtol=1e-6, atol=1e-9)


def test_each_weight_may_have_a_sparsity_of_its_own():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    share = {"2.weight": 0.25, "0.weight": 0.75}
    masks, records = prune_layerwise(model, share, [(torch.randn(30, 8), None)], rule=alps)
    assert {name: 1 - float(mask.double().mean()) for name, mask in masks.items()} == share
    assert [record.name for record in records] == ["0.weight", "2.weight"]


def test_each_weight_may_have_a_rule_of_its_own():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), torch.randn(30, 8)
    alone, seen = copy.deepcopy(model), []

    def watched(weight, gram, sparsity, /, *, mean=None):
        seen.append(weight.shape)
        return by_importance(weight, gram, sparsity, mean=mean)

    masks, _ = prune_layerwise(model, 0.5, [(x, None)], rule={"1.weight": watched}, repair=None)
    assert (list(masks), seen) == (["1.weight"], [(4, 8)])
    assert torch.equal(model[0].weight, alone[0].weight)


@pytest.mark.parametrize(
    ("sparsity", "named", "says"),
    [
        ({"wieght": 0.5}, {}, "unknown parameter 'wieght'"),
        ({"weight": 1.5}, {}, r"must lie in \[0, 1\); got 1.5"),
        (0.5, {"weights": ["bias"]}, "'bias' is not the untied weight"),
        ({}, {"weights": ["weight"]}, "in sparsity: unknown weight 'weight'"),
        (0.5, {"weights": ["weight"], "rule": {}}, "in rule: unknown weight 'weight'"),
        (0.5, {"target": "x"}, "unknown target 'x'"),
    ],
)
def test_a_mistake_is_told(sparsity, named, says):
    with pytest.raises(ValueError, match=rf"prune\.prune_layerwise: .*{says}"):
        prune_layerwise(nn.Linear(4, 2), sparsity, [(torch.ones(1, 4), None)], **named)


def test_a_weight_that_is_not_called_is_named():
    model = nn.Linear(4, 2)
    model.spare = nn.Linear(4, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"the batches never call spare\.weight"):
        prune_layerwise(model, 0.5, [(torch.randn(9, 4), None)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_importance_that_needs_a_gradient_is_refused():
    with pytest.raises(ValueError, match="needs 'gradient'"):
        by_importance(torch.ones(2, 2), torch.eye(2), 0.5, importance=taylor)
