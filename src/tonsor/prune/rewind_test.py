"""Iterative pruning with rewinding: what is taken back, how sparse each round is, resume is continue."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn

import tonsor
from tonsor.prune import Rewind, find_masks, local, taylor, train_in_rounds

TO = ["weights", "init", "learning_rate", "random", "none"]
STEPS = 12


def problem(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3))


def training(rewind, keep_at=4):
    """Return a training of one's own, which keeps its weights early in the first round."""

    def train(model, round):
        optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
        handle = tonsor.attach(optimizer, masks=round.masks)
        for step in range(round.start or 0, STEPS):
            if step == keep_at:
                rewind.keep(step)
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (model(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
        handle.remove()

    return train


def state(model):
    return copy.deepcopy(model.state_dict())


def same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def masked(state, masks):
    return {name: value * masks[name] if name in masks else value for name, value in state.items()}


@pytest.mark.parametrize("to", TO)
def test_each_round_removes_a_fifth_of_what_is_left(to):
    rewind = Rewind(problem(), partial(find_masks, scope=local), to=to)
    found = list(train_in_rounds(rewind, training(rewind), count=5))
    assert [r.number for r in found] == list(range(6))
    assert [r.sparsity for r in found] == pytest.approx([1 - 0.8**n for n in range(6)], abs=0.02)
    assert [r.start for r in found] == [0, *[{"none": None, "init": 0, "random": 0}.get(to, 4)] * 5]
    for early, late in itertools.pairwise(found):
        assert not any((late.masks[name] & ~mask).any() for name, mask in early.masks.items())


@pytest.mark.parametrize("to", TO)
def test_what_is_taken_back_is_what_the_papers_take_back(to):
    model = problem()
    rewind = Rewind(model, to=to, fraction=0.5)
    at_first = state(model)
    train = training(rewind)
    train(model, rewind.round)
    early = problem()
    other = Rewind(early)
    halfway = training(other)
    _stop_at(4, halfway, early, other)
    trained = state(model)
    rewind.step()
    expected = {"weights": state(early), "init": at_first, "learning_rate": trained, "none": trained}
    if to == "random":
        assert not torch.equal(model[0].bias, at_first["0.bias"])
        assert not torch.equal(model[0].bias, trained["0.bias"])
        assert (model[1].running_mean == 0).all()
    else:
        same(state(model), masked(expected[to], rewind.masks))
    assert all((model.get_parameter(name)[~mask] == 0).all() for name, mask in rewind.masks.items())


def _stop_at(step, train, model, rewind):
    """Train up to the step at which the weights are kept, and leave the model there."""
    kept = []
    rewind.keep = lambda _: kept.append(state(model))
    train(model, rewind.round)
    model.load_state_dict(kept[0])
    assert step == 4


def test_without_keep_the_ticket_goes_back_to_the_beginning():
    model = problem()
    at_first = state(model)
    rewind = Rewind(model)
    training(rewind, keep_at=None)(model, rewind.round)
    rewind.step()
    same(state(model), masked(at_first, rewind.masks))
    assert rewind.round.start == 0


def test_only_the_first_training_is_kept():
    model = problem()
    rewind = Rewind(model)
    rewind.keep(3)
    kept = state(model)
    rewind.step()
    nn.init.ones_(model[0].bias)
    rewind.keep(7)
    rewind.step()
    same(model[0].bias.data, kept["0.bias"])
    assert rewind.round.start == 3


def test_each_round_of_the_control_has_its_own_draw_and_the_random_state_is_left_alone():
    model = problem()
    rewind, before = Rewind(model, to="random"), torch.get_rng_state()
    draws = []
    for _ in range(2):
        rewind.step()
        draws.append(model[0].bias.detach().clone())
    assert torch.equal(torch.get_rng_state(), before)
    again = Rewind(problem(5), to="random")
    again.step()
    assert torch.equal(again.model[0].bias, draws[0])
    assert not torch.equal(draws[0], draws[1])


def test_a_module_that_cannot_be_drawn_anew_is_named_and_nothing_is_changed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    model = nn.Sequential(nn.Linear(6, 3), nn.ModuleDict({"own": Scaled()}))
    before = state(model)
    with pytest.raises(ValueError, match=r"'1.own.scale' cannot be drawn anew: Scaled has no method reset"):
        Rewind(model, to="random").step()
    same(model[0].bias.data, before["0.bias"])


def test_attention_is_drawn_anew_as_it_was_built():
    torch.manual_seed(3)
    model = nn.MultiheadAttention(4, 2)
    rewind = Rewind(model, to="random", fraction=0.01, seed=5)
    rewind.step()
    assert (model.in_proj_bias == 0).all()
    assert model.in_proj_weight.abs().max() > 0


@pytest.mark.parametrize("to", TO)
@pytest.mark.parametrize("stopped", [0, 1, 3])
def test_resume_is_continue(to, stopped):
    def go(rewind, stop):
        for round in train_in_rounds(rewind, training(rewind), count=4):
            if round.number == stop:
                return copy.deepcopy([rewind.model.state_dict(), rewind.state_dict()])
        return copy.deepcopy([rewind.model.state_dict(), rewind.state_dict()])

    whole = go(Rewind(problem(), to=to), None)
    kept = go(Rewind(problem(), to=to), stopped)
    again = Rewind(problem(9), to=to)
    again.model.load_state_dict(kept[0])
    again.load_state_dict(kept[1])
    same(go(again, None), whole)


def test_statistics_reach_the_importance():
    model = problem()
    rewind = Rewind(model, partial(find_masks, importance=taylor), to="none", fraction=0.5)
    weights = {"0.weight": model[0].weight, "3.weight": model[3].weight}
    stats = {name: {"gradient": torch.rand(w.shape)} for name, w in weights.items()}
    expected = find_masks(weights, 0.5, importance=taylor, stats=stats)
    rewind.step(stats)
    same(rewind.masks, expected)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\); got 20"):
        Rewind(problem(), fraction=20)
    with pytest.raises(ValueError, match="unknown to 'weight'; did you mean 'weights'"):
        Rewind(problem(), to="weight")
    with pytest.raises(ValueError, match=r"only one side has 0\.weight, 3\.weight"):
        Rewind(problem()).load_state_dict({"masks": {}})
