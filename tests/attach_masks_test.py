"""`attach` drives an object that moves masks, once for each step that is taken."""

import copy
from functools import partial

import pytest
import torch

import tonsor
from tonsor.clip import AutoClip, global_norm
from tonsor.constrain import max_norm
from tonsor.prune import (
    DenseGradient,
    Pruner,
    clear_state_,
    find_masks,
    local,
    mask_gradients_,
    random,
    rigl,
)
from tonsor.schedule import constant, cubic

CLIP = partial(global_norm, max_norm=0.5)
NORM = partial(max_norm, max_norm=1.0)


def problem(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.Tanh(), torch.nn.Linear(12, 2))
    inputs, targets = torch.randn(16, 4), torch.randn(16, 2)
    return model, lambda scale=1.0: (scale * (model(inputs) - targets)).square().mean()


def rising(model):
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    find = partial(find_masks, scope=local)
    return Pruner(weights, find, schedule=partial(cubic, final=0.8, stop=12), every=3)


def moving(model):
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return Pruner(
        weights,
        rigl,
        schedule=partial(constant, final=0.3),
        every=3,
        within=find_masks(weights, 0.7, importance=random, scope=local),
        collect=DenseGradient(weights),
        regrow=True,
    )


pruners = pytest.mark.parametrize("make", [rising, moving])


def by_hand(model, loss, make, steps=15):
    """The loop of one's own that attach stands for."""
    optimizer, pruner = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1), make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        pruner.observe()
        mask_gradients_(pruner.parameters, pruner.masks)
        CLIP(list(model.parameters()))
        optimizer.step()
        pruner.step(optimizer)
        NORM(list(model.parameters()))
    return pruner


def attached(make, seed=0, clip=CLIP, **settings):
    model, loss = problem(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1, **settings)
    pruner = make(model)
    handle = tonsor.attach(optimizer, clip=clip, constrain=NORM, masks=pruner, on_nonfinite="skip")
    return model, loss, optimizer, pruner, handle


def train(loss, optimizer, steps=15, scaler=None, scale=1.0):
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(scale) if scaler is None else scaler.scale(loss(scale))).backward()
        optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is not None:
            scaler.update()


def same(first, second, **bounds):
    torch.testing.assert_close(first, second, **{"rtol": 0, "atol": 0, **bounds})


@pruners
def test_attached_is_the_same_as_the_loop_of_ones_own(make):
    model, loss = problem()
    pruner = by_hand(model, loss, make)
    other, loss, optimizer, driven, _ = attached(make)
    train(loss, optimizer)
    same(other.state_dict(), model.state_dict())
    same(driven.masks, pruner.masks)
    assert driven.steps == pruner.steps == 15
    assert driven.sparsity > 0.6


@pruners
@pytest.mark.parametrize("fused", [True, False])
def test_a_grad_scaler_does_not_change_what_is_pruned(make, fused):
    model, loss = problem()
    pruner = by_hand(model, loss, make)
    other, loss, optimizer, driven, _ = attached(make, fused=fused)
    train(loss, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    same(driven.masks, pruner.masks)
    same(other.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-6)


@pruners
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_step_that_is_not_taken_does_not_count(make, fused, scaled):
    model, loss, optimizer, pruner, _ = attached(make, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0) if scaled else None
    train(loss, optimizer, 2, scaler)
    before, weights = pruner.masks, copy.deepcopy(model.state_dict())
    train(loss, optimizer, 3, scaler, scale=float("inf"))
    assert pruner.steps == 2
    same(model.state_dict(), weights)
    same(pruner.masks, before)
    train(loss, optimizer, 1, scaler)
    assert pruner.steps == 3
    assert any(not torch.equal(mask, before[name]) for name, mask in pruner.masks.items())


def test_a_closure_is_watched_at_each_of_its_evaluations_and_stepped_once():
    model, loss = problem()
    optimizer, pruner = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3), moving(model)
    seen = []
    pruner._collect.observe = lambda: seen.append(1) or DenseGradient.observe(pruner._collect)
    tonsor.attach(optimizer, clip=CLIP, masks=pruner)

    def closure():
        optimizer.zero_grad()
        result = loss()
        result.backward()
        return result

    for _ in range(3):
        optimizer.step(closure)
    assert pruner.steps == 3
    assert len(seen) > 1  # of the third step, which moves the masks
    assert all((w[~pruner.masks[name]] == 0).all() for name, w in pruner.parameters.items())


@pruners
@pytest.mark.parametrize("stopped", [2, 3, 8])
def test_resume_is_continue(make, stopped):
    model, loss, optimizer, pruner, handle = attached(make, clip=AutoClip(percentile=50))
    train(loss, optimizer, stopped)
    kept = copy.deepcopy([part.state_dict() for part in (model, optimizer, handle)])
    train(loss, optimizer, 15 - stopped)
    again, _, its_optimizer, its_pruner, its_handle = attached(make, seed=1, clip=AutoClip(percentile=50))
    for part, state in zip((again, its_optimizer, its_handle), kept, strict=True):
        part.load_state_dict(state)
    inputs, targets = (value for value in loss.__closure__ if torch.is_tensor(value.cell_contents))
    inputs, targets = inputs.cell_contents, targets.cell_contents
    train(lambda scale: (scale * (again(inputs) - targets)).square().mean(), its_optimizer, 15 - stopped)
    same(again.state_dict(), model.state_dict())
    same(its_pruner.masks, pruner.masks)


def test_the_past_of_removed_weights_is_forgotten_when_masks_are_attached_and_when_they_move():
    model, loss = problem()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.05)
    train(loss, optimizer, 3)
    weight, mask = model[0].weight, torch.rand(12, 4) > 0.5
    tonsor.attach(optimizer, masks={"0.weight": mask}).remove()
    assert (optimizer.state[weight]["exp_avg"][~mask] == 0).all()
    assert (optimizer.state[weight]["exp_avg"][mask] != 0).all()
    pruner = rising(model)
    tonsor.attach(optimizer, masks=pruner)
    train(loss, optimizer, 12)
    before = optimizer.state[weight]["exp_avg_sq"].clone()
    clear_state_(optimizer, pruner.parameters, pruner.masks)
    assert pruner.sparsity > 0.7
    assert torch.equal(optimizer.state[weight]["exp_avg_sq"], before)


class Counting:
    """The least that attach drives: masks and a step, and it looks at gradients."""

    def __init__(self):
        self.masks = {"0.weight": torch.ones(12, 4).bool()}
        self.calls = []

    def observe(self):
        self.calls.append("observe")

    def step(self):
        self.calls.append("step")


def test_an_object_of_ones_own_is_driven_and_never_shown_a_gradient_that_is_not_finite():
    model, loss = problem()
    optimizer, own = torch.optim.SGD(model.parameters(), lr=0.1), Counting()
    tonsor.attach(optimizer, masks=own, model=model, clip=CLIP, on_nonfinite="skip")
    train(loss, optimizer, 1)
    train(loss, optimizer, 1, scale=float("nan"))
    train(loss, optimizer, 1)
    assert own.calls == ["observe", "step"] * 2


def test_a_fused_optimizer_is_left_to_unscale_where_nobody_looks():
    _, loss, optimizer, pruner, _ = attached(rising, fused=True)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.grad_scale))
    train(loss, optimizer, 6, torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert [pruner.looks, pruner.steps] == [False, 6]
    assert all(scale is not None for scale in seen)
    assert all((w[~pruner.masks[name]] == 0).all() for name, w in pruner.parameters.items())


def test_zero_drops_the_bad_elements_before_anybody_looks():
    model, loss = problem()
    optimizer, pruner = torch.optim.SGD(model.parameters(), lr=0.1), moving(model)
    tonsor.attach(optimizer, masks=pruner, clip=CLIP, on_nonfinite="zero")
    train(loss, optimizer, 2)
    optimizer.zero_grad()
    loss().backward()
    model[0].weight.grad[0] = float("nan")
    optimizer.step()
    assert pruner.steps == 3
    assert all(p.isfinite().all() for p in model.parameters())


def test_masks_of_another_model_are_refused():
    model, _ = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"does not hold '0.weight'; make both with one model's weights"):
        tonsor.attach(optimizer, masks=rising(problem()[0]))
    with pytest.raises(ValueError, match="give model="):
        tonsor.attach(optimizer, masks=Counting())
