"""Synaptic flow, and masks found in rounds."""

import copy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import collect, find_in_rounds, find_masks, needs, snip, synflow


def scores(model, x, names=()):
    stats = collect(model, [(x, None)], names=[*needs(synflow), *names])
    return {name: synflow(model.get_parameter(name), found["synaptic_flow"]) for name, found in stats.items()}


def test_the_flow_of_a_linear_net_is_the_product_of_its_sizes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    first, second, third = (model[place].weight.detach().double().abs().numpy() for place in (0, 2, 4))
    behind = {0: np.ones(2) @ third @ second, 2: np.ones(2) @ third, 4: np.ones(2)}
    before = {0: np.ones(3), 2: first @ np.ones(3), 4: second @ first @ np.ones(3)}
    found = scores(model, torch.randn(7, 3))
    for place, size in zip((0, 2, 4), (first, second, third), strict=True):
        oracle = size * np.outer(behind[place], before[place])
        np.testing.assert_allclose(found[f"{place}.weight"], oracle, rtol=1e-12)


def test_what_flows_through_every_layer_is_the_same_and_no_data_counts():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, groups=1), nn.MaxPool2d(2)
    model = nn.Sequential(*conv, nn.Flatten(), nn.Linear(12, 2))
    model[1].running_mean.fill_(3.0)
    nn.init.normal_(model[1].weight)
    found = scores(model, torch.randn(5, 2, 8, 8))
    sums = [score.sum().item() for score in found.values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-12)
    again = scores(model, torch.full((1, 2, 8, 8), torch.nan))
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_tokens_are_kept_and_tied_weights_flow_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    size = model[0].weight.detach().double().abs().numpy()
    found = scores(model, torch.tensor([[1, 4]]))["0.weight"]
    looked_up, summed = np.zeros((5, 3)), size[1] + size[4]
    looked_up[[1, 4]] = size.sum(0)
    np.testing.assert_allclose(found, size * (looked_up + summed), rtol=1e-12)


def test_the_model_run_once_more_disturbs_no_other_statistic():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    names = ["input_norm", "activation_mean", "synaptic_flow"]
    together = collect(model, [(x, None)], names=names)
    for name in names:
        alone = collect(model, [(x, None)], names=[name])
        for weight, found in alone.items():
            assert torch.equal(found[name], together[weight][name])


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), nn.Linear(3, 2, bias=False)]
)
def test_a_net_through_which_nothing_flows_is_refused(model):
    if isinstance(model, nn.Linear):
        nn.init.zeros_(model.weight)
    with pytest.raises(ValueError, match="'synaptic_flow' is not defined for this model"):
        collect(
            model, [(torch.randn(2, 3), None)], names=["synaptic_flow"], weights=list(model.state_dict())[:1]
        )


def deep():
    torch.manual_seed(0)
    sizes = [32, 64, 64, 64, 64, 4]
    model = nn.Sequential(*[nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)])
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    looking = partial(collect, model, [(torch.ones(1, 32), None)], names=needs(synflow))
    return model, weights, looking


@pytest.mark.filterwarnings("ignore:prune.find_masks. nothing of")
def test_flow_in_rounds_keeps_every_layer_alive_where_one_round_does_not():
    _, weights, looking = deep()
    find = partial(find_masks, importance=synflow)
    kept = {
        rounds: find_in_rounds(weights, 0.998, find=find, collect=looking, rounds=rounds)
        for rounds in (1, 100)
    }
    alive = {rounds: [bool(mask.any()) for mask in masks.values()] for rounds, masks in kept.items()}
    assert all(alive[100])
    assert not all(alive[1])
    total = sum(mask.numel() for mask in kept[1].values())
    for masks in kept.values():
        assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.998 * total)


def test_rounds_follow_the_schedule_of_the_paper_and_give_the_weights_back():
    _, weights, looking = deep()
    before, asked, density = copy.deepcopy(weights), [], []

    def find(dense, sparsity, **given):
        assert all(torch.equal(dense[name], before[name]) for name in dense)
        asked.append(sparsity)
        return find_masks(dense, sparsity, importance=synflow, **given)

    def look():
        zeros = [(weight == 0).sum() for weight in weights.values()]
        density.append(1 - float(sum(zeros)) / sum(weight.numel() for weight in weights.values()))
        return looking()

    masks = find_in_rounds(weights, 0.9, find=find, collect=look, rounds=4)
    np.testing.assert_allclose(asked, [1 - 0.1 ** (k / 4) for k in (1, 2, 3, 4)])
    np.testing.assert_allclose(density, [0.1 ** (k / 4) for k in (0, 1, 2, 3)], atol=1e-4)
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert all(mask.dtype is torch.bool for mask in masks.values())


def test_an_error_in_a_round_gives_the_weights_back():
    w, calls = {"w": torch.tensor([1.0, 2.0, 3.0, float("nan")])}, []

    def look():
        calls.append(w["w"].tolist())
        if len(calls) == 2:
            raise RuntimeError("no data left")

    def find(dense, sparsity, **given):
        return {"w": torch.tensor([True, False, False, True])}

    with pytest.raises(RuntimeError, match="no data left"):
        find_in_rounds(w, 0.5, find=find, collect=look, rounds=3)
    assert calls[1][1:3] == [0.0, 0.0]
    assert torch.equal(w["w"].nan_to_num(7.0), torch.tensor([1.0, 2.0, 3.0, 7.0]))


@pytest.mark.parametrize("regrow", [False, True])
def test_what_went_may_come_back_only_where_it_is_asked_for(regrow):
    """Regrowing, a weight is judged as it was, by the gradient of the net without it: FORCE."""
    weights = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    pulls = iter([[1.0, 1.0, 1.0, 1.0], [9.0, 1.0, 1.0, 1.0], [9.0, 1.0, 1.0, 1.0]])
    masks = find_in_rounds(
        weights,
        0.75,
        find=partial(find_masks, importance=snip),
        collect=lambda: {"w": {"gradient": torch.tensor(next(pulls))}},
        rounds=3,
        regrow=regrow,
    )
    assert masks["w"].tolist() == ([True, False, False, False] if regrow else [False, False, False, True])


def test_masks_of_before_hold_in_every_round():
    weights = {"w": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    first = {"w": torch.tensor([False, True, True, True])}
    for regrow in (False, True):
        masks = find_in_rounds(
            weights, 0.5, find=find_masks, collect=dict, rounds=3, regrow=regrow, within=first
        )
        assert masks["w"].tolist() == [False, True, True, False]


@pytest.mark.parametrize(("wrong", "says"), [({"rounds": 0}, "rounds must be at least 1"), ({}, r"\[0, 1\)")])
def test_a_mistake_is_told(wrong, says):
    sparsity = 0.5 if wrong else 1.0
    with pytest.raises(ValueError, match=says):
        find_in_rounds({"w": torch.ones(4)}, sparsity, find=find_masks, collect=dict, **wrong)
