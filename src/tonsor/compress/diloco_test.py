from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.compress import Comm, DiLoCo, ErrorFeedback, TopK, dense, local_sgd
from tonsor.compress.workers_test import same, together, workers


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def batches(rank, count):
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(count)]


def train(model, xs, stepped=lambda: None, lr=0.1):
    """Take a step of SGD for each batch."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for x in xs:
        optimizer.zero_grad()
        model(x.to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()
        stepped()


def play(models, counts, make):
    """Let each worker train on its batches and finish; return the handles."""
    comms = workers(len(models))
    handles = together([make] * len(models), models, comms)

    def work(rank, comm):
        train(models[rank], batches(rank, counts[rank]), handles[rank].step)
        handles[rank].finish()

    together([work] * len(models), list(range(len(models))), comms)
    return handles


def of_trained(model):
    return {n: p.detach().numpy().copy() for n, p in model.named_parameters()}


def oracle(counts, every, lr, momentum):
    """Return the weights after all meetings: Nesterov's step by torch's own SGD, over the means."""
    outer = net()
    step = torch.optim.SGD(outer.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)
    locals_ = [net() for _ in counts]
    for start in range(0, max(counts), every):
        active = [rank for rank, count in enumerate(counts) if count > start]
        for rank in active:
            train(locals_[rank], batches(rank, counts[rank])[start : start + every])
        for name, parameter in outer.named_parameters():
            moved = [parameter - dict(locals_[rank].named_parameters())[name] for rank in active]
            parameter.grad = torch.stack(moved).mean(0).detach()
        step.step()
        for name, buffer in outer.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.stack([dict(locals_[r].named_buffers())[name] for r in active]).mean(0))
        for each in locals_:
            each.load_state_dict(outer.state_dict())
    return outer


@pytest.mark.parametrize("counts", [(6, 6), (8, 5, 8), (7, 1, 3)])
@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.0)])
def test_meetings_are_nesterov_steps_over_the_mean_of_who_took_part(counts, lr, momentum):
    models = [net() for _ in counts]
    handles = play(models, counts, partial(DiLoCo, every=2, lr=lr, momentum=momentum))
    want = oracle(counts, 2, lr, momentum)
    for model in models:
        for (name, got), right in zip(model.named_parameters(), want.parameters(), strict=True):
            torch.testing.assert_close(got, right, atol=1e-12, rtol=1e-9, msg=name)
        for got, right in zip(model.buffers(), want.buffers(), strict=True):
            if got.is_floating_point():
                torch.testing.assert_close(got, right, atol=1e-12, rtol=1e-9)
    assert {handle.rounds for handle in handles} == {-(-max(counts) // 2)}


def test_local_sgd_averages_the_weights():
    models = [net() for _ in range(3)]
    comms = workers(3)
    handles = together([lambda model, comm: local_sgd(model, comm, every=4)] * 3, models, comms)
    for rank, model in enumerate(models):
        train(model, batches(rank, 4))
    means = {n: np.mean([of_trained(m)[n] for m in models], axis=0) for n in of_trained(models[0])}
    for _ in range(3):
        assert together([lambda handle, _: handle.step()] * 3, handles, comms) == [False] * 3
    assert together([lambda handle, _: handle.step()] * 3, handles, comms) == [True] * 3
    for model in models:
        for name, got in of_trained(model).items():
            np.testing.assert_allclose(got, means[name], atol=1e-12)


def test_a_compressed_outer_step_sends_little_and_leaves_all_workers_equal():
    models = [net(torch.float32) for _ in range(2)]
    whole = play([net(torch.float32) for _ in range(2)], (8, 8), partial(DiLoCo, every=2))
    make = lambda model, comm: DiLoCo(model, comm, ErrorFeedback(TopK(density=0.1)), every=2)  # noqa: E731
    handles = play(models, (8, 8), make)
    assert handles[0].comm.bytes_sent < whole[0].comm.bytes_sent
    floats = [{n: t for n, t in m.state_dict().items() if t.is_floating_point()} for m in models]
    assert same(*floats)


def test_a_meeting_that_is_not_finite_is_undone_on_all():
    models = [net() for _ in range(2)]
    comms = workers(2)
    handles = together([lambda model, comm: DiLoCo(model, comm, every=1)] * 2, models, comms)
    before = of_trained(models[0])
    with torch.no_grad():
        models[1][0].weight[0, 0] = torch.nan
        models[0][0].bias.add_(1.0)
    together([lambda handle, _: handle.step()] * 2, handles, comms)
    for model in models:
        for name, got in of_trained(model).items():
            np.testing.assert_array_equal(got, before[name])


@pytest.mark.parametrize("stop", [2, 3])  # at a meeting, and between two
def test_a_resumed_run_goes_on_bit_for_bit(stop):
    def make(model):
        return DiLoCo(model, Comm(), ErrorFeedback(TopK(density=0.2)), every=2)

    xs = batches(0, 6)
    model, other = net(), net()
    handle = make(model)
    train(model, xs[:stop], handle.step)
    saved, weights = handle.state_dict(), {n: t.clone() for n, t in model.state_dict().items()}
    train(model, xs[stop:], handle.step)
    again = make(other)
    other.load_state_dict(weights)
    again.load_state_dict(saved)
    train(other, xs[stop:], again.step)
    assert same(model.state_dict(), other.state_dict())


def test_frozen_and_half_precision_parameters_are_no_trouble():
    model = net(torch.bfloat16)
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    handle = DiLoCo(model, Comm(), every=1, lr=1.0, momentum=0.0)
    train(model, batches(0, 2), handle.step)
    assert torch.equal(model[0].weight, frozen)
    assert handle.state_dict()["momenta"].keys() == {n for n, _ in model.named_parameters()} - {"0.weight"}
    assert handle.state_dict()["anchors"]["3.weight"].dtype == torch.float32


def test_workers_that_start_apart_are_told():
    models = [net(), net()]
    with torch.no_grad():
        models[1][3].bias.add_(1.0)

    def start(model, comm):
        with pytest.raises(ValueError, match="start from different weights; make the model with the same"):
            DiLoCo(model, comm)
        return True

    assert together([start] * 2, models, workers(2)) == [True] * 2


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"got every=0, lr=0.7, momentum=0.9"):
        DiLoCo(net(), Comm(), every=0)
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        DiLoCo(nn.Linear(2, 2).requires_grad_(False), Comm(), dense)
    with pytest.raises(ValueError, match=r"another model: .*bias.* on one side only"):
        DiLoCo(net(), Comm()).load_state_dict(DiLoCo(nn.Linear(2, 2), Comm()).state_dict())
