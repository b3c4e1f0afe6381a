"""Groups of channels are a pattern: every importance and scope of the prune room works on them."""

from functools import partial

import pytest
import torch
from torch import nn

from tonsor.prune import IMPORTANCES, SCOPES, Pruner, collect, find_masks, needs
from tonsor.schedule import SCHEDULES
from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.units import NORMALISERS, REDUCTIONS

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
BATCHES = [(X, torch.arange(64) % 3)]
SPARSITY = {"uniform_plus": 0.4}  # it spares the first of the three groups
OF_IMAGES = {"hrank", "slimming"}  # ask for feature maps, or for a normalisation


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 24),
        nn.ReLU(),
        nn.Linear(24, 16),
        nn.Tanh(),
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 3),
    )


def image_network():
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((6, 24), (24, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


def weights(model):
    return {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}


def convolutions(model):
    return {name: weight for name, weight in weights(model).items() if weight.ndim == 4}


def kept(model):
    return [model[number].out_features for number in (0, 2, 4)]


@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_importance_cuts_groups_that_can_be_sliced(name):
    importance, loss = IMPORTANCES[name], nn.functional.cross_entropy
    model, inputs, scored = network(), X, weights
    if name in OF_IMAGES:
        model, inputs = image_network(), X[..., None, None] * torch.rand(64, 6, 5, 5)
        scored = convolutions
    groups = channel_groups(model, inputs).scored(normalise="mean").limited(multiple_of=4)
    batches = [(inputs, BATCHES[0][1])]
    stats = collect(model, batches, names=needs(importance), weights=scored(model), loss=loss)
    masks = find_masks(scored(model), 0.5, stats=stats, importance=importance, pattern=groups)
    told = shrink_(model, groups, masks)
    left = [len(model.get_parameter(weight)) for weight in list(weights(model))[:3]]
    assert 25 <= sum(left) <= 48
    assert all(count % 4 == 0 for count in left)
    assert told.max_difference < 1e-5


@pytest.mark.parametrize("name", SCOPES)
def test_every_scope_keeps_the_limits_and_the_order_of_the_scores(name):
    model = network()
    groups = channel_groups(model, X).limited(multiple_of=4, at_least=8)
    scope, sparsity = SCOPES[name], SPARSITY.get(name, 0.5)
    units = groups.reduce({name: w.abs() for name, w in weights(model).items()})
    keep = groups.limit(scope(units, sparsity), units)
    assert all(int(stays.sum()) in range(8, 33, 4) for stays in keep.values())
    masks = find_masks(weights(model), sparsity, pattern=groups, scope=scope)
    shrunk = shrink_(model, groups, masks)
    assert all(count in range(8, 33, 4) for count in kept(model))
    assert {k: sorted(v) for k, v in shrunk.removed.items()} == {
        group: (~stays).nonzero().flatten().tolist() for group, stays in keep.items() if not stays.all()
    }


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_every_schedule_leads_through_nested_cuts_to_the_limits(name):
    model = network()
    groups = channel_groups(model, X).scored(normalise="gaussian").limited(multiple_of=8)
    schedule = partial(SCHEDULES[name], initial=0.0, final=0.5, stop=5)
    pruner = Pruner(weights(model), partial(find_masks, pattern=groups), schedule=schedule)
    before = pruner.masks
    for _ in range(6):
        with torch.no_grad():
            for weight in weights(model).values():
                weight.add_(0.01 * torch.randn_like(weight))
        pruner.step()
        assert not any((pruner.masks[key] & ~before[key]).any() for key in before)
        before = pruner.masks
    shrink_(model, groups, pruner.masks)
    assert all(count % 8 == 0 for count in kept(model))
    assert sum(kept(model)) <= 48


@pytest.mark.parametrize("normalise", NORMALISERS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_an_earlier_pass_removed_stays_removed(reduction, normalise):
    model = network()
    groups = channel_groups(model, X).scored(reduction=reduction, normalise=normalise)
    first = find_masks(weights(model), 0.25, pattern=groups)
    both = find_masks(weights(model), 0.5, pattern=groups, within=first)
    assert not any((both[name] & ~first[name]).any() for name in first)
    shrink_(model, groups, both)
    assert sum(kept(model)) <= 36 + 3


def test_a_layer_of_small_weights_is_emptied_without_and_kept_with_a_norm():
    model = network()
    with torch.no_grad():
        model[2].weight.mul_(0.01)
    groups = channel_groups(model, X)
    found = {}
    for normalise in NORMALISERS:
        masks = find_masks(weights(model), 0.2, pattern=groups.scored(reduction="first", normalise=normalise))
        found[normalise] = float(masks["2.weight"].any(1).float().mean())
    assert found["none"] == 2 / 16
    assert all(share > 0.4 for normalise, share in found.items() if normalise != "none")
