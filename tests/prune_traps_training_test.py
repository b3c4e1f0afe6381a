"""Known traps of training a pruned model on: what optimizers, clipping and averages do to its zeros."""

import inspect
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import tonsor
from tonsor.clip import global_norm
from tonsor.prune import Pruner, apply_masks_, find_masks, local
from tonsor.schedule import constant, cubic

OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam")
}
DECAYED = {
    "AdamW",
    "Adam",
    "SGD",
    "RMSprop",
    "Adagrad",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adadelta",
    "ASGD",
    "Muon",
}


def problem(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))


def made(name, model):
    more = {"weight_decay": 0.1} if name in DECAYED else {}
    more |= {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    return OPTIMIZERS[name](model.parameters(), lr=0.01, **more)


def train(model, optimizer, steps, start=0):
    for number in range(start, start + steps):
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(number))

        def closure(x=x):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :4]).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def sparsity_of(model):
    return 1 - sum(int(p.count_nonzero()) for p in model.parameters()) / sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sparsity_is_kept_through_further_steps_with_weight_decay(name):
    model = problem()
    optimizer = made(name, model)
    train(model, optimizer, 5)
    named = dict(model.named_parameters())
    masks = find_masks(named, 0.9, scope=local)
    apply_masks_(named, masks)
    tonsor.attach(optimizer, masks=masks, model=model)
    train(model, optimizer, 10, start=5)
    assert sparsity_of(model) == pytest.approx(0.9, abs=0.005)
    assert all((named[name][~mask] == 0).all() for name, mask in masks.items())


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam"])
def test_no_momentum_moves_a_masked_weight_and_none_decays_into_denormal_numbers(name):
    model = problem()
    optimizer = made(name, model)
    pruner = Pruner(
        dict(model.named_parameters()), find_masks, schedule=partial(constant, final=0.5), every=4
    )
    tonsor.attach(optimizer, masks=pruner)
    train(model, optimizer, 40)
    for key, mask in pruner.masks.items():
        weight = pruner.parameters[key]
        shaped = [
            v for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.shape == weight.shape
        ]
        assert shaped
        assert all((value[~mask] == 0).all() for value in shaped)
        assert all((value[mask] != 0).all() for value in shaped)


def test_the_eps_of_adam_does_not_turn_a_masked_weight():
    model = problem()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, eps=1e-30, weight_decay=0.1)
    masks = {"0.weight": torch.rand(16, 12) > 0.5}
    apply_masks_(dict(model.named_parameters()), masks)
    tonsor.attach(optimizer, masks=masks, model=model)
    train(model, optimizer, 5)
    assert all(p.isfinite().all() for p in model.parameters())
    assert (model[0].weight[~masks["0.weight"]] == 0).all()


def test_the_norm_that_is_clipped_is_that_of_the_weights_that_are_left():
    model = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    masks = find_masks(dict(model.named_parameters()), 0.9, scope=local)
    attached = tonsor.attach(
        optimizer, masks=masks, model=model, clip=partial(global_norm, max_norm=float("inf"))
    )
    x = torch.randn(16, 12)
    (10 * model(x)).square().mean().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    left = torch.cat([grads[name][mask] for name, mask in masks.items()]).norm()
    whole = torch.cat([grad.flatten() for grad in grads.values()]).norm()
    torch.testing.assert_close(attached.norm, left)
    assert left < 0.9 * whole


def test_an_averaged_copy_is_masked_by_the_same_masks():
    model = problem()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = Pruner(
        dict(model.named_parameters()), find_masks, schedule=partial(cubic, final=0.8, stop=10), every=2
    )
    tonsor.attach(optimizer, masks=pruner)
    for number in range(12):
        train(model, optimizer, 1, start=number)
        average.update_parameters(model)
    assert sparsity_of(average.module) < 0.7  # what was removed lately lives on in the average
    apply_masks_(dict(average.module.named_parameters()), pruner.masks)
    assert sparsity_of(average.module) == sparsity_of(model) == pytest.approx(0.8, abs=0.005)


def test_a_frozen_weight_and_one_without_a_gradient_can_be_masked():
    model = problem()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    pruner = Pruner(dict(model.named_parameters()), find_masks, schedule=partial(constant, final=0.5))
    tonsor.attach(optimizer, masks=pruner)
    train(model, optimizer, 3)
    assert sparsity_of(model) == 0.5


def test_masks_found_without_training_hold_from_the_first_step():
    model = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    named = dict(model.named_parameters())
    masks = find_masks(named, 0.5)
    tonsor.attach(optimizer, masks=masks, model=model)
    train(model, optimizer, 1)
    assert sparsity_of(model) == 0.5
