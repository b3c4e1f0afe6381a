"""SET and RigL against their papers' algorithms, and what a pruner makes of them."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.prune import (
    REGROWS,
    DenseGradient,
    Pruner,
    find_masks,
    local,
    magnitude,
    mask_gradients_,
    random,
    regrow,
    rigl,
    sparse_evolution,
)
from tonsor.schedule import constant, cosine

rules = pytest.mark.parametrize("rule", REGROWS.values(), ids=REGROWS)
ALPHA = partial(cosine, initial=0.3, final=0.0, stop=30)


def drawn(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed, sparsity=0.7):
    """Return a masked weight, its mask and its dense gradient."""
    weight, gradient = drawn((6, 5), seed), drawn((6, 5), seed + 100)
    mask = find_masks({"w": weight}, sparsity, importance=random, scope=local)["w"]
    return weight * mask, mask, gradient


def papers_rigl(weight, mask, gradient, fraction):
    """Algorithm 1 of Evci et al., in NumPy, on single indices."""
    weight, mask, gradient = (t.numpy().ravel() for t in (weight, mask, gradient))
    active = np.flatnonzero(mask)
    k = round(fraction * len(active))
    drop = active[np.argsort(np.abs(weight[active]), kind="stable")[:k]]
    rest = np.setdiff1d(np.arange(len(weight)), np.setdiff1d(active, drop))
    grow = rest[np.argsort(-np.abs(gradient[rest]), kind="stable")[:k]]
    new = mask.copy()
    new[drop] = False
    new[grow] = True
    return torch.from_numpy(new)


@given(seed=st.integers(0, 50), fraction=st.floats(0, 0.99), sparsity=st.floats(0, 0.95))
@settings(max_examples=50)
def test_rigl_is_the_algorithm_of_its_paper(seed, fraction, sparsity):
    weight, mask, gradient = layer(seed, sparsity)
    stats = {"w": {"gradient": gradient}}
    got = rigl({"w": weight}, fraction, stats=stats, within={"w": mask})["w"]
    assert torch.equal(got.view(-1), papers_rigl(weight, mask, gradient, fraction))


@given(seed=st.integers(0, 50), fraction=st.floats(0, 0.99), step=st.integers(0, 9))
@settings(max_examples=50)
def test_set_drops_the_smallest_and_grows_as_many_of_the_rest(seed, fraction, step):
    weight, mask, _ = layer(seed)
    got = sparse_evolution({"w": weight}, fraction, within={"w": mask}, step=step)["w"]
    k = round(fraction * int(mask.sum()))
    order = weight.abs().where(mask, torch.inf).view(-1).argsort()
    survivors = torch.ones(30).bool().index_fill(0, order[:k], False).view(6, 5) & mask
    assert int(got.sum()) == int(mask.sum())
    assert not (survivors & ~got).any()


def test_set_grows_every_place_as_often_as_any_other():
    mask = torch.arange(20) < 10
    counts = sum(
        sparse_evolution({"w": torch.ones(20)}, 0.5, within={"w": mask}, step=s)["w"] for s in range(600)
    )
    free = counts[mask.logical_not() | (torch.arange(20) < 5)].double() / 600
    assert (free - 5 / 15).abs().max() < 5 * (1 / 3 * 2 / 3 / 600) ** 0.5


@rules
def test_each_weight_stays_as_sparse_as_it_was_and_a_dense_one_stays_dense(rule):
    weights = {"a": drawn((6, 5)), "b": drawn((4, 5), 1), "dense": drawn((3, 3), 2)}
    masks = {"a": drawn((6, 5), 3) > 0.5, "b": drawn((4, 5), 4) > -0.3}
    stats = {name: {"gradient": drawn(w.shape, 5)} for name, w in weights.items()}
    found = rule(weights, 0.4, stats=stats, within=masks, step=1)
    assert found.keys() == weights.keys()
    assert found["dense"].all()
    for name, mask in masks.items():
        assert int(found[name].sum()) == int(mask.sum())
        assert not torch.equal(found[name], mask)


@rules
def test_of_ties_just_so_many_go(rule):
    mask = torch.arange(100) < 40
    stats = {"w": {"gradient": torch.zeros(100)}}
    found = rule({"w": torch.ones(100)}, 0.25, stats=stats, within={"w": mask}, step=3)
    assert int(found["w"].sum()) == 40


@rules
def test_what_an_earlier_pass_removed_does_not_come_back(rule):
    weight, allowed = drawn((10, 10)), torch.zeros(10, 10).bool()
    allowed[:5] = True
    mask = allowed & (drawn((10, 10), 1) > 0)
    stats = {"w": {"gradient": drawn((10, 10), 2)}}
    for step in range(5):
        found = rule({"w": weight}, 0.5, stats=stats, within={"w": mask}, step=step, among={"w": allowed})[
            "w"
        ]
        assert int(found.sum()) == int(mask.sum())
        assert not (found & ~allowed).any()
        mask = found


def test_any_two_importances_may_move_the_masks():
    weight, mask, _ = layer(0)
    found = regrow({"w": weight}, 0.5, within={"w": mask}, step=4, rules=(random, random))["w"]
    assert int(found.sum()) == int(mask.sum())
    same = regrow({"w": weight}, 0.5, within={"w": mask}, step=4, rules=(magnitude, magnitude))["w"]
    assert torch.equal(same, mask)  # of what is removed, only what has just gone has a size


@rules
def test_a_mistake_is_told(rule):
    with pytest.raises(ValueError, match=r"prune.regrow: sparsity .* got 1.5"):
        rule({"w": torch.ones(2)}, 1.5)
    gradients = {"w": {"gradient": torch.tensor([1.0, torch.inf])}}
    if rule is rigl:
        with pytest.raises(ValueError, match="needs 'gradient' of weight 'w'; let a watch"):
            rigl({"w": torch.ones(2)}, 0.5, within={"w": torch.ones(2) > 0})
        with pytest.raises(ValueError, match="weight 'w' got a score that is infinite"):
            rigl({"w": torch.ones(2)}, 0.5, stats=gradients, within={"w": torch.ones(2) > 0})


def training(rule, seed=0):
    """Return a sparse model with its pruner, as in a loop of one's own."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner = Pruner(
        weights,
        rule,
        schedule=ALPHA,
        every=5,
        within=find_masks(weights, 0.8, importance=random, scope=local),
        collect=DenseGradient(weights),
        regrow=True,
    )
    return model, weights, optimizer, pruner


def train(model, weights, optimizer, pruner, steps, is_masked=True):
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        pruner.observe()
        if is_masked:
            mask_gradients_(weights, pruner.masks)
        optimizer.step()
        pruner.step(optimizer)


@rules
@pytest.mark.parametrize("is_masked", [True, False])
def test_masks_move_when_due_until_the_end_and_what_comes_back_starts_clean(rule, is_masked):
    model, weights, optimizer, pruner = training(rule)
    sparsity, moves = pruner.sparsity, []
    for step in range(1, 41):
        before = pruner.masks
        train(model, weights, optimizer, pruner, [step], is_masked)
        grown = {name: mask & ~before[name] for name, mask in pruner.masks.items()}
        if any(g.any() for g in grown.values()):
            moves.append(step)
        for name, weight in weights.items():
            assert (weight[grown[name] | ~pruner.masks[name]] == 0).all()
            for key in ("exp_avg", "exp_avg_sq"):
                if step in moves or is_masked:
                    assert (optimizer.state[weight][key][grown[name] | ~pruner.masks[name]] == 0).all()
    assert moves == [5, 10, 15, 20]  # at 25 the schedule rounds to no weight, from 30 on it is at 0
    assert pruner.sparsity == sparsity == pytest.approx(0.8, abs=0.01)


@rules
@pytest.mark.parametrize("stopped", [3, 5, 12])
def test_resume_is_continue_bit_for_bit(rule, stopped):
    going = training(rule)
    train(*going, range(1, stopped + 1))
    kept = copy.deepcopy([part.state_dict() for part in (going[0], going[2], going[3])])
    train(*going, range(stopped + 1, 30))
    again = training(rule, seed=7)
    for part, state in zip((again[0], again[2], again[3]), kept, strict=True):
        part.load_state_dict(state)
    train(*again, range(stopped + 1, 30))
    torch.testing.assert_close(again[3].masks, going[3].masks)
    torch.testing.assert_close(again[0].state_dict(), going[0].state_dict(), rtol=0, atol=0)


def test_regrown_masks_learn_more_than_fixed_ones():
    losses = []
    for every in (5, 1000):
        model, weights, optimizer, _ = training(rigl)
        pruner = Pruner(
            weights,
            rigl,
            schedule=partial(constant, final=0.3),
            every=every,
            within=find_masks(weights, 0.9, importance=random, scope=local),
            collect=DenseGradient(weights),
            regrow=True,
        )
        train(model, weights, optimizer, pruner, range(1, 400))
        x = torch.randn(500, 6, generator=torch.Generator().manual_seed(9999))
        losses.append((model(x) - x[:, :3]).square().mean().item())
    assert losses[0] < 0.9 * losses[1]


def test_a_gradient_that_nobody_looked_at_is_told():
    _, weights, _, pruner = training(rigl)
    for _ in range(4):
        pruner.step()
    with pytest.raises(ValueError, match=r"no gradient was seen.*call `observe`"):
        pruner.step()
    assert pruner.steps == 4
    assert weights


def test_regrowing_needs_masks_to_start_from():
    with pytest.raises(ValueError, match="regrow moves masks that there are; give within="):
        Pruner({"w": torch.ones(2)}, rigl, schedule=ALPHA, regrow=True)


def test_the_dense_gradient_is_copied_only_at_the_step_that_needs_it():
    model, weights, optimizer, pruner = training(rigl)
    watch = pruner._collect
    seen = []
    watch.observe = lambda: seen.append(pruner.steps + 1) or DenseGradient.observe(watch)
    train(model, weights, optimizer, pruner, range(1, 41))
    assert seen == [5, 10, 15, 20, 25]
