"""Soft pruning against the algorithms of its papers, in loops of a few lines."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import tonsor
from tonsor.prune import Channel, SoftPruner, find_masks, taylor
from tonsor.schedule import constant, stairs

HALF = partial(constant, final=0.5)
GROWING = partial(stairs, final=2.0, stop=20, count=4)


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, {"0.weight": model[0].weight, "2.weight": model[2].weight}, optimizer


def soft(weights, penalty=None, **keys):
    find = partial(find_masks, **keys)
    return SoftPruner(weights, find, schedule=HALF, every=4, penalty=penalty)


def train(model, optimizer, steps, pruner=None):
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        if pruner is not None:
            pruner.observe()
        optimizer.step()
        if pruner is not None:
            pruner.step(optimizer)


def same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_soft_filter_pruning_is_training_with_zeros_written_after_each_epoch():
    model, weights, optimizer = problem()
    pruner = soft(weights, pattern=Channel())
    train(model, optimizer, range(12), pruner)
    other, its_weights, its_optimizer = problem()
    for epoch in range(3):
        train(other, its_optimizer, range(4 * epoch, 4 * epoch + 4))
        for name, keep in find_masks(its_weights, 0.5, pattern=Channel()).items():
            its_weights[name].data[~keep] = 0
    same(model.state_dict(), other.state_dict())
    same(optimizer.state_dict()["state"], its_optimizer.state_dict()["state"])
    assert all(mask.all() for mask in pruner.masks.values())


def test_a_filter_may_come_back_until_the_masks_are_held():
    model, weights, optimizer = problem()
    pruner = soft(weights)
    train(model, optimizer, range(4), pruner)
    first = pruner.chosen
    assert all((w[~first[name]] == 0).all() for name, w in weights.items())
    train(model, optimizer, range(4, 40), pruner)
    assert any((pruner.chosen[name] & ~first[name]).any() for name in weights)
    train(model, optimizer, range(40, 42), pruner)  # and some training of what was zeroed
    expected = find_masks(weights, 0.5)
    pruner.hold(optimizer)
    same(pruner.masks, expected)
    for name, weight in weights.items():
        assert (optimizer.state[weight]["momentum_buffer"][~expected[name]] == 0).all()
    train(model, optimizer, range(42, 60), pruner)
    same(pruner.masks, expected)
    assert all((w[~expected[name]] == 0).all() for name, w in weights.items())


def test_the_growing_penalty_is_an_l2_term_of_the_loss_on_the_chosen_weights():
    model, weights, optimizer = problem()
    pruner = soft(weights, GROWING)
    other, its_weights, its_optimizer = problem()
    chosen = find_masks(its_weights, 0.5)
    train(model, optimizer, range(20), pruner)
    for step in range(20):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        strength = 0.5 * (step // 5)
        penalty = sum((w[~chosen[name]] ** 2).sum() for name, w in its_weights.items())
        its_optimizer.zero_grad()
        ((other(x) - x[:, :3]).square().mean() + strength / 2 * penalty).backward()
        its_optimizer.step()
    same(pruner.chosen, chosen)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-7)


def test_pressed_weights_are_nearly_gone_when_they_are_removed_and_the_loss_hardly_notices():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(10_000))
    losses = {}
    for name, penalty in (("pressed", partial(stairs, final=4.0, stop=200, count=100)), ("cut", None)):
        model, weights, optimizer = problem()
        train(model, optimizer, range(100))
        pruner = SoftPruner(weights, find_masks, schedule=HALF, every=1000, penalty=penalty)
        train(model, optimizer, range(100, 300), pruner)
        before = (model(x) - x[:, :3]).square().mean().item()
        pruner.hold()
        losses[name] = (model(x) - x[:, :3]).square().mean().item() - before
        assert pruner.sparsity == 0.5
    assert abs(losses["pressed"]) < 0.05 * losses["cut"]


def test_what_is_pressed_on_stays_chosen_and_masks_of_before_hold():
    model, weights, optimizer = problem()
    before = {"0.weight": torch.rand(8, 6) > 0.3}
    pruner = SoftPruner(
        weights, find_masks, schedule=partial(stairs, final=0.8, stop=20), penalty=GROWING, within=before
    )
    chosen = pruner.chosen
    for step in range(25):
        train(model, optimizer, [step], pruner)
        assert not any((pruner.chosen[name] & ~chosen[name]).any() for name in weights)
        assert (weights["0.weight"][~before["0.weight"]] == 0).all()
        chosen = pruner.chosen
    assert pruner.sparsity == pytest.approx(0.8, abs=0.01)
    same(pruner.masks["0.weight"], before["0.weight"])


@pytest.mark.parametrize("penalty", [None, GROWING])
@pytest.mark.parametrize("stopped", [2, 4, 9, 15])
def test_resume_is_continue(penalty, stopped):
    def go(parts, steps):
        train(parts[0], parts[1], steps, parts[2])
        if 12 in steps:
            parts[2].hold(parts[1])
            train(parts[0], parts[1], range(100, 103), parts[2])

    def fresh(seed):
        model, weights, optimizer = problem(seed)
        return model, optimizer, soft(weights, penalty)

    going = fresh(0)
    go(going, range(stopped))
    kept = copy.deepcopy([part.state_dict() for part in going])
    go(going, range(stopped, 20))
    again = fresh(1)
    for part, state in zip(again, kept, strict=True):
        part.load_state_dict(state)
    go(again, range(stopped, 20))
    same(again[0].state_dict(), going[0].state_dict())
    same(again[2].state_dict(), going[2].state_dict())


@pytest.mark.parametrize("penalty", [None, GROWING])
def test_attach_presses_as_the_loop_of_ones_own_and_under_a_scaler_too(penalty):
    model, weights, optimizer = problem()
    train(model, optimizer, range(10), soft(weights, penalty))
    for scaled in (False, True):
        other, its_weights, its_optimizer = problem()
        its_optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, fused=True)
        tonsor.attach(its_optimizer, masks=soft(its_weights, penalty))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=scaled)
        for step in range(10):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
            its_optimizer.zero_grad()
            scaler.scale((other(x) - x[:, :3]).square().mean()).backward()
            scaler.step(its_optimizer)
            scaler.update()
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-6)


def test_statistics_reach_the_choice():
    _, weights, _ = problem()
    stats = {name: {"gradient": torch.rand(w.shape)} for name, w in weights.items()}
    find = partial(find_masks, importance=taylor)
    pruner = SoftPruner(weights, find, schedule=HALF, collect=lambda: stats)
    expected = find(weights, 0.5, stats=stats)
    pruner.step()
    same(pruner.chosen, expected)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"prune\.SoftPruner: every must be at least 1; got 0"):
        SoftPruner({}, find_masks, schedule=HALF, every=0)
    _, weights, _ = problem()
    with pytest.raises(ValueError, match=r"only one side has 0.weight, 2.weight, w"):
        soft(weights).load_state_dict({"masks": {"w": torch.ones(1) > 0}})
