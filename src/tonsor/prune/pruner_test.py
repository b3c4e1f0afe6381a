import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

from tonsor.files import read_tensors, write_tensors
from tonsor.prune import Channel, Pruner, collect, find_masks, needs, random, taylor
from tonsor.schedule import constant, cubic, linear


def training(seed=0):
    """Return a small model, its weights and an optimizer with momentum."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return model, weights, torch.optim.AdamW(model.parameters(), lr=0.01)


def train(model, optimizer, pruner, steps):
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        pruner.step()


def counting(find, calls):
    def counted(*args, **kwargs):
        calls.append(args[1])
        return find(*args, **kwargs)

    return counted


def test_all_stays_at_first():
    _, weights, _ = training()
    pruner = Pruner(weights, find_masks, schedule=partial(constant, final=0.0))
    before = {name: w.detach().clone() for name, w in weights.items()}
    pruner.step()
    assert pruner.sparsity == 0
    assert all(mask.all() for mask in pruner.masks.values())
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_zeros_stay_zero_through_an_optimizer_with_momentum_and_never_come_back():
    model, weights, optimizer = training()
    pruner = Pruner(weights, find_masks, schedule=partial(cubic, final=0.8, stop=12), every=3)
    before = pruner.masks
    for step in range(20):
        train(model, optimizer, pruner, [step])
        for name, mask in pruner.masks.items():
            assert not (mask & ~before[name]).any()
            assert (weights[name][~mask] == 0).all()
            assert (weights[name][mask] != 0).all()
        before = pruner.masks
    assert pruner.sparsity == pytest.approx(round(0.8 * 72) / 72)


def test_masks_are_found_only_when_due_and_only_while_the_sparsity_rises():
    _, weights, _ = training()
    calls, collected = [], []
    pruner = Pruner(
        weights,
        counting(find_masks, calls),
        schedule=partial(linear, final=0.6, start=2, stop=6),
        every=2,
        collect=lambda: collected.append(1),
    )
    for _ in range(20):
        pruner.step()
    assert calls == pytest.approx([0.3, 0.6])  # steps 4 and 6
    assert len(collected) == 2


def test_a_schedule_that_falls_brings_nothing_back():
    _, weights, _ = training()
    pruner = Pruner(weights, find_masks, schedule=partial(linear, initial=0.5, final=0.0, stop=4))
    pruner.step()
    masks = pruner.masks
    for _ in range(5):
        pruner.step()
    assert all(torch.equal(pruner.masks[name], masks[name]) for name in masks)


def test_masks_of_before_are_held_from_the_first_step():
    model, weights, optimizer = training()
    before = find_masks(weights, 0.5, importance=random)
    others = {"head.weight": torch.zeros(3) > 0}
    schedule = partial(linear, final=0.75, start=2, stop=4)
    pruner = Pruner(weights, find_masks, schedule=schedule, within={**before, **others})
    assert pruner.sparsity == 0.5
    train(model, optimizer, pruner, range(1))
    assert all((weights[name][~mask] == 0).all() for name, mask in before.items())
    train(model, optimizer, pruner, range(1, 4))
    assert pruner.sparsity == 0.75
    assert pruner.masks.keys() == weights.keys()
    assert not any((pruner.masks[name] & ~before[name]).any() for name in weights)


def test_a_mask_of_before_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mask of 'w' must be boolean of shape \(2,\); got .*\(3,\)"):
        Pruner({"w": torch.ones(2)}, find_masks, schedule=constant, within={"w": torch.ones(3) > 0})


def test_statistics_reach_the_importance():
    model, weights, _ = training()
    data = [(torch.randn(8, 6), torch.randn(8, 3))]
    gather = partial(collect, model, data, names=needs(taylor), weights=weights, loss=nn.functional.mse_loss)
    find = partial(find_masks, importance=taylor)
    expected = find(weights, 0.5, stats=gather())
    pruner = Pruner(weights, find, schedule=partial(constant, final=0.5), collect=gather)
    pruner.step()
    assert all(torch.equal(pruner.masks[name], expected[name]) for name in weights)


@pytest.mark.parametrize(
    "find", [find_masks, partial(find_masks, importance=random), partial(find_masks, pattern=Channel())]
)
def test_resume_is_continue_bit_for_bit_through_a_file(tmp_path, find):
    schedule = partial(cubic, final=0.7, stop=15)
    model, weights, optimizer = training()
    going = Pruner(weights, find, schedule=schedule, every=2)
    train(model, optimizer, going, range(7))
    state = going.state_dict()
    write_tensors(tmp_path / "masks", state.pop("masks"), about={"rest": json.dumps(state)})
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    moments = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, going, range(7, 20))

    again, its_weights, its_optimizer = training(seed=1)
    resumed = Pruner(its_weights, find, schedule=schedule, every=2)
    again.load_state_dict(saved)
    its_optimizer.load_state_dict(moments)
    masks, about = read_tensors(tmp_path / "masks")
    resumed.load_state_dict({"masks": masks, **json.loads(about["rest"])})
    train(again, its_optimizer, resumed, range(7, 20))

    assert resumed.steps == going.steps == 20
    assert resumed.sparsity == going.sparsity > 0.5
    for name, mask in going.masks.items():
        assert torch.equal(resumed.masks[name], mask)
        assert torch.equal(its_weights[name], weights[name])


def test_the_ramp_is_that_of_zhu_and_gupta():
    _, weights, _ = training()
    asked, start, every, count = [], 10, 5, 8
    ramp = partial(cubic, initial=0.1, final=0.8, start=start, stop=start + every * count)
    pruner = Pruner(weights, counting(find_masks, asked), schedule=ramp, every=every)
    for _ in range(80):
        pruner.step()
    steps = [start + k * every for k in range(count + 1)]
    paper = [0.8 + (0.1 - 0.8) * (1 - (t - start) / (count * every)) ** 3 for t in steps]
    assert asked == pytest.approx(paper)  # found at step 5 as well: the schedule stands at 0.1 from the first


def test_the_optimizer_forgets_what_is_removed():
    model, weights, optimizer = training()
    pruner = Pruner(weights, find_masks, schedule=partial(constant, final=0.5), every=3)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 6) + step).square().mean().backward()
        optimizer.step()
        assert (optimizer.state[weights["0.weight"]]["exp_avg_sq"] != 0).any()
        pruner.step(optimizer)
    for name, mask in pruner.masks.items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert (optimizer.state[weights[name]][key][~mask] == 0).all()
            assert (optimizer.state[weights[name]][key][mask] != 0).any()


def test_a_failed_finding_changes_nothing():
    _, weights, _ = training()
    pruner = Pruner(weights, partial(find_masks, importance=taylor), schedule=partial(constant, final=0.5))
    with pytest.raises(ValueError, match="'taylor' needs 'gradient'"):
        pruner.step()
    assert pruner.steps == 0
    assert pruner.sparsity == 0


def test_a_state_of_another_model_is_refused_whole():
    _, weights, _ = training()
    pruner = Pruner(weights, find_masks, schedule=partial(constant, final=0.5))
    pruner.step()
    state, masks = pruner.state_dict(), pruner.masks
    for wrong, says in [
        (
            {"0.weight": torch.ones(2, 2) > 0, "2.weight": masks["2.weight"]},
            "mask of '0.weight' must be boolean",
        ),
        (
            {"0.weight": masks["0.weight"], "3.weight": masks["2.weight"]},
            "only one side has 2.weight, 3.weight",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            pruner.load_state_dict({**state, "masks": wrong})
        assert all(torch.equal(pruner.masks[name], masks[name]) for name in masks)


def test_a_loaded_state_does_not_follow_the_tensors_it_came_from():
    _, weights, _ = training()
    pruner = Pruner(weights, find_masks, schedule=partial(constant, final=0.5))
    pruner.step()
    state = pruner.state_dict()
    other = Pruner(weights, find_masks, schedule=partial(constant, final=0.5))
    other.load_state_dict(state)
    state["masks"]["0.weight"].fill_(False)
    assert other.masks["0.weight"].any()


def test_every_must_be_a_step_at_least():
    with pytest.raises(ValueError, match="every must be at least 1; got 0"):
        Pruner({}, find_masks, schedule=constant, every=0)
