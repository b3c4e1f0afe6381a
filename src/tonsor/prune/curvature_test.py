"""Importances of curvature: against the brute-force loss on a quadratic, and the papers' own recursions."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.prune import by_inverse, collect, find_masks, from_curvature, needs, obd, obs, obs_update_


def quadratic(seed=0, size=6):
    """Return a curvature and the weights at its minimum."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)


def cheapest(curvature, weight, gone):
    """Return the lowest point of the quadratic where the weights of a set are zero, and its height."""
    stays = [j for j in range(len(weight)) if j not in gone]
    change = -weight * np.isin(np.arange(len(weight)), gone)
    force = curvature[np.ix_(stays, gone)] @ change[gone]
    change[stays] = -np.linalg.lstsq(curvature[np.ix_(stays, stays)], force, rcond=None)[0]
    return weight + change, change @ curvature @ change / 2


def test_obd_is_the_change_of_a_quadratic_without_cross_terms():
    weight, diagonal = np.array([1.0, -2.0, 3.0]), np.array([4.0, 0.5, 1.0])
    oracle = [w * h * w / 2 for w, h in zip(weight, diagonal, strict=True)]
    np.testing.assert_allclose(obd(torch.tensor(weight), torch.tensor(diagonal)), oracle)


@pytest.mark.parametrize("seed", range(3))
def test_obs_is_the_least_loss_at_which_a_weight_can_go(seed):
    curvature, weight = quadratic(seed)
    inverse = torch.tensor(np.linalg.inv(curvature)).unsqueeze(0)
    oracle = [cheapest(curvature, weight, [j])[1] for j in range(6)]
    np.testing.assert_allclose(obs(torch.tensor(weight), inverse), oracle, rtol=1e-8)


@pytest.mark.parametrize("gone", [[2], [0, 5], [1, 2, 3], [0, 1, 2, 3, 4, 5], []])
def test_the_update_goes_to_the_lowest_point_that_the_masks_leave(gone):
    curvature, weight = quadratic()
    weights = {"w": torch.tensor(weight).view(2, 3)}
    masks = {"w": torch.tensor(~np.isin(np.arange(6), gone)).view(2, 3)}
    obs_update_(weights, masks, {"w": {"inverse_fisher": torch.tensor(np.linalg.inv(curvature))[None]}})
    oracle = cheapest(curvature, weight, gone)[0]
    np.testing.assert_allclose(weights["w"].flatten(), oracle, rtol=1e-8, atol=1e-12)
    assert (weights["w"][~masks["w"]] == 0).all()


@given(
    size=st.integers(1, 12),
    block=st.integers(1, 5),
    seed=st.integers(0, 99),
    entries=st.sampled_from([1, 60]),
)
@settings(max_examples=50)
def test_every_block_goes_to_its_own_lowest_point_a_few_at_a_time(size, block, seed, entries):
    blocks = -(-size // block)
    parts = [quadratic(seed + place, block) for place in range(blocks)]
    weight = np.concatenate([part[1] for part in parts])[:size]
    gone = np.random.default_rng(seed).random(size) < 0.5
    weights, masks = {"w": torch.tensor(weight)}, {"w": torch.tensor(~gone)}
    inverse = torch.tensor(np.stack([np.linalg.inv(part[0]) for part in parts]))
    with patch.object(by_inverse, "ENTRIES", entries):
        obs_update_(weights, masks, {"w": {"inverse_fisher": inverse}})
    for place, (curvature, _) in enumerate(parts):
        own = slice(place * block, min(size, (place + 1) * block))
        width = own.stop - own.start  # what fills the last block up is zero and free to move
        filled = np.pad(weight[own], (0, block - width))
        oracle = cheapest(curvature, filled, np.flatnonzero(gone[own]))[0][:width]
        np.testing.assert_allclose(weights["w"][own], oracle, rtol=1e-6, atol=1e-9)


def test_the_update_of_one_weight_is_the_step_of_the_paper():
    curvature, weight = quadratic()
    inverse = np.linalg.inv(curvature)
    weights, mask = {"w": torch.tensor(weight)}, torch.arange(6) != 4
    obs_update_(weights, {"w": mask}, {"w": {"inverse_fisher": torch.tensor(inverse)[None]}})
    step = -weight[4] / inverse[4, 4] * inverse[:, 4]
    np.testing.assert_allclose(weights["w"], weight + step, rtol=1e-8, atol=1e-12)


def regression(seed=0):
    """Return a net, batches, and the gradient of the squared error of every sample."""
    rng = np.random.default_rng(seed)
    weight, x, y = rng.normal(size=(2, 5)), rng.normal(size=(70, 5)), rng.normal(size=(70, 2))
    model = nn.Linear(5, 2, bias=False).double()
    model.weight.data = torch.tensor(weight)
    error = x @ weight.T - y
    gradients = 2 / y.shape[1] * np.einsum("no,ni->noi", error, x).reshape(70, 10)
    batches = [(torch.tensor(x[a:b]), torch.tensor(y[a:b])) for a, b in pairwise((0, 33, 70))]
    return model, batches, gradients


def woodbury(gradients, damping):
    """Return the inverse Fisher as the paper builds it, sample by sample (Sherman-Morrison)."""
    inverse = np.eye(gradients.shape[1]) / damping
    for g in gradients:
        along = inverse @ g
        inverse = inverse - np.outer(along, along) / (len(gradients) + g @ along)
    return inverse


@pytest.mark.parametrize("block", [1, 4, 10, 64])
def test_the_inverse_fisher_is_that_of_the_papers_recursion(block, monkeypatch):
    monkeypatch.setattr(from_curvature, "ENTRIES", 20)  # so that blocks are inverted a few at a time
    model, batches, gradients = regression()
    tuning = {"inverse_fisher": {"damping": 0.1, "block": block}}
    found = collect(model, batches, names=["inverse_fisher"], loss=nn.functional.mse_loss, settings=tuning)[
        "weight"
    ]["inverse_fisher"]
    size = min(block, 10)
    filled = np.pad(gradients, ((0, 0), (0, -10 % size)))
    oracle = [woodbury(filled[:, a : a + size], 0.1) for a in range(0, 10, size)]
    np.testing.assert_allclose(found, oracle, rtol=1e-8, atol=1e-12)


def test_surgeon_with_update_loses_less_than_damage_without():
    model, batches, _ = regression(1)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    solution = torch.linalg.lstsq(x, y).solution.T
    losses = {}
    for importance in (obd, obs):
        weights = {"weight": model.weight}
        model.weight.data = solution.clone()
        names = needs(importance)
        stats = collect(model, batches, names=names, loss=nn.functional.mse_loss)
        masks = find_masks(weights, 0.4, stats=stats, importance=importance)
        if importance is obs:
            obs_update_(weights, masks, stats)
        losses[importance] = nn.functional.mse_loss(x @ (model.weight * masks["weight"]).T, y).item()
    assert losses[obs] < losses[obd]


def test_mistakes_of_the_update_change_nothing():
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    masks = {name: torch.tensor([True, False]) for name in weights}
    stats = {"a": {"inverse_fisher": torch.eye(2)[None]}}
    with pytest.raises(ValueError, match=r"'b' needs 'inverse_fisher'; give stats=collect"):
        obs_update_(weights, masks, stats)
    with pytest.raises(ValueError, match="unknown weight 'c'"):
        obs_update_(weights, {"a": masks["a"], "c": masks["a"]}, stats)
    assert all((weight == 1).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("tuning", "says"),
    [
        ({"inverse_fisher": {"damping": 0.0}}, "damping above 0 .* got damping=0.0"),
        ({"inverse_fisher": {"blocks": 3}}, "unknown key 'blocks'; did you mean 'block'"),
        ({"invers_fisher": {}}, "in settings: unknown statistic 'invers_fisher'; did you mean"),
    ],
)
def test_a_wrong_setting_is_told(tuning, says):
    model, batches, _ = regression()
    with pytest.raises(ValueError, match=says):
        collect(model, batches, names=["inverse_fisher"], loss=nn.functional.mse_loss, settings=tuning)
