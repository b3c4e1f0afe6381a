import io
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import GaLore, HeldGradients
from tonsor.compress.coded import Coded


def net(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 12), nn.Tanh(), nn.Linear(12, 12))
    return layers.to(dtype)


def batch(seed, dtype=torch.float32):
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def backward(model, seed):
    model(batch(seed, model[0].weight.dtype)).square().mean().backward()


@settings(max_examples=30)
@given(
    numel=st.sampled_from([0, 1, 255, 256, 257, 300_000]),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    kind=st.sampled_from(["int8", "bfloat16"]),
)
def test_a_held_sum_is_right_to_what_the_block_allows(numel, seed, scale, kind):
    rng = np.random.default_rng(seed)
    given_in = rng.normal(size=(5, numel)) * scale
    fed, bare = (Coded(numel, torch.device("cpu"), kind=kind, feedback=f) for f in (True, False))
    for row in given_in:
        for held in (fed, bare):
            held.add(torch.tensor(row, dtype=torch.float32))
    want = given_in.sum(0)
    largest = np.abs(np.cumsum(given_in, 0)).max(initial=0.0)
    for held, bound in ((fed, 5 / 127 / 127), (bare, 5 / 127)):
        assert np.abs(held.value().double().numpy() - want).max(initial=0.0) <= bound * largest


def test_with_feedback_small_gradients_are_not_swallowed():
    for kind in ("int8", "bfloat16"):
        fed, bare = (Coded(2, torch.device("cpu"), kind=kind, feedback=f) for f in (True, False))
        for held in (fed, bare):
            held.add(torch.tensor([100.0, 10.0]))
            for _ in range(100):
                held.add(torch.tensor([0.0, 0.02]))
        torch.testing.assert_close(fed.value(), torch.tensor([100.0, 12.0]), atol=0.05, rtol=0)
        assert bare.value()[1] < 10.3  # each was less than half a step


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_what_is_not_finite_shows_and_is_gone_with_the_step(kind, bad):
    weight = nn.Parameter(torch.ones(3))
    held = HeldGradients([weight], kind=kind)
    for factor in (1.0, bad, 1.0):
        (weight * factor).sum().backward()
    assert not held.norm().isfinite()
    held.release()
    assert not weight.grad.isfinite().all()
    weight.grad = None
    weight.sum().backward()
    held.release()
    torch.testing.assert_close(weight.grad, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accumulation_in_few_bits_is_that_of_the_ordinary_loop(dtype):
    plain, model = net(), net(dtype)
    held = HeldGradients(model)
    for seed in range(6):
        backward(plain, seed)
        backward(model, seed)
        assert all(p.grad is None for p in model.parameters())
    held.scale_(1 / 6)
    whole = torch.cat([p.grad.flatten() / 6 for p in plain.parameters()])
    close = {"rtol": 1e-3, "atol": 0} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0}
    torch.testing.assert_close(held.norm(), whole.norm(), **close)
    numbers = sum(p.numel() for p in model.parameters())
    assert held.nbytes < 2.04 * numbers + 520 * len(list(model.parameters()))  # blocks are filled up
    held.release()
    got = torch.cat([p.grad.float().flatten() for p in model.parameters()])
    assert (got - whole).norm() < (1e-3 if dtype == torch.float32 else 0.05) * whole.norm()
    assert held.nbytes == 0


def test_a_step_with_one_gradient_at_a_time_is_the_step_of_all():
    models = [net() for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in models]
    helds = [HeldGradients(model) for model in models]
    for round_ in range(3):
        for model in models:
            for seed in range(2):
                backward(model, 10 * round_ + seed)
        helds[0].release()
        optimizers[0].step()
        optimizers[0].zero_grad()
        helds[1].step(optimizers[1])
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b)
            assert b.grad is None


def test_sums_are_saved_between_two_micro_batches():
    models = [net() for _ in range(2)]
    helds = [HeldGradients(model) for model in models]
    backward(models[0], 0)
    helds[1].load_state_dict(helds[0].state_dict())
    for model, held in zip(models, helds, strict=True):
        backward(model, 1)
        held.release()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    backward(models[0], 0)
    with pytest.raises(ValueError, match=r"sum of '.*' fits no parameter held here as bfloat16"):
        HeldGradients(net(), kind="bfloat16").load_state_dict(helds[0].state_dict())


def test_mistakes_about_held_gradients_are_told():
    with pytest.raises(ValueError, match="unknown kind 'int4'; did you mean 'int8'"):
        HeldGradients(net(), kind="int4")
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        HeldGradients(net().requires_grad_(False))
    wrapped = nn.Module.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    with pytest.raises(ValueError, match="pass the plain model"):
        HeldGradients(wrapped)


def adam_in_the_subspace(grads, weight, rank, every, scale, decay, lr=0.01, betas=(0.9, 0.999), eps=1e-8):
    """Return the weight after the paper's algorithm 2, with AdamW's decay, in float64."""
    moment, square, base = 0.0, 0.0, None
    for step, grad in enumerate(grads):
        tall = grad.shape[0] >= grad.shape[1]
        if step % every == 0:
            left, _, right = np.linalg.svd(grad)
            base = right[:rank].T if tall else left[:, :rank]
            base = base * np.sign(base[np.abs(base).argmax(0), np.arange(rank)])
        low = grad @ base if tall else base.T @ grad
        moment = betas[0] * moment + (1 - betas[0]) * low
        square = betas[1] * square + (1 - betas[1]) * low**2
        ratio = (moment / (1 - betas[0] ** (step + 1))) / (
            np.sqrt(square / (1 - betas[1] ** (step + 1))) + eps
        )
        back = ratio @ base.T if tall else base @ ratio
        weight = weight * (1 - lr * decay) - lr * scale * back
    return weight


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7), (6, 2, 3, 2)])
def test_galore_is_the_papers_algorithm(shape):
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(7, *shape))
    start = rng.normal(size=shape)
    weight = nn.Parameter(torch.tensor(start))
    inner = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5)
    galore = GaLore([weight], inner, rank=3, every=3, scale=0.25)
    for grad in grads:
        weight.grad = torch.tensor(grad)
        galore.step()
    flat = (shape[0], -1)
    want = adam_in_the_subspace(grads.reshape(7, *flat[:1], -1), start.reshape(flat), 3, 3, 0.25, 0.5)
    np.testing.assert_allclose(weight.detach().numpy().reshape(flat), want, atol=1e-9)
    held = [t.numel() for t in galore.optimizer.state[galore.optimizer.param_groups[0]["params"][0]].values()]
    assert max(held) == 3 * max(want.shape)


def test_where_gradients_are_of_that_rank_nothing_is_lost():
    models = [nn.Linear(20, 15, dtype=torch.float64), nn.Linear(20, 15, dtype=torch.float64)]
    models[1].load_state_dict(models[0].state_dict())
    plain = torch.optim.SGD(models[0].parameters(), lr=0.1)
    galore = GaLore(models[1], partial(torch.optim.SGD, lr=0.1), rank=3, every=1, scale=1.0)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (plain, galore.optimizer)]
    for seed in range(4):
        x = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for model, optimizer in zip(models, (plain, galore), strict=True):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        for each in schedules:
            each.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_coupled_weight_decay_is_part_of_the_gradient_that_is_projected():
    weight = nn.Parameter(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    weight.grad = torch.zeros(3, 3)
    GaLore([weight], partial(torch.optim.SGD, lr=0.5, weight_decay=0.1), rank=2, scale=1.0).step()
    torch.testing.assert_close(weight.data, torch.diag(torch.tensor([2.85, 1.9, 1.0])))


def test_an_overflow_keeps_the_base_and_a_parameter_without_gradient_rests():
    weight, other = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.ones(6, 6))
    galore = GaLore([weight, other], partial(torch.optim.SGD, lr=0.1), rank=2, every=1)
    weight.grad = torch.randn(6, 6)
    galore.step()
    before = galore.state_dict()["bases"]["0"]
    weight.grad[0, 0] = torch.inf
    galore.step()
    assert torch.equal(galore.state_dict()["bases"]["0"], before)
    assert (other == 1).all()
    with pytest.raises(ValueError, match="got rank=0, every=200"):
        GaLore([weight], torch.optim.SGD, rank=0)


def test_a_resumed_galore_goes_on_bit_for_bit():
    def run(model, galore, seeds):
        for seed in seeds:
            backward(model, seed)
            galore.step()
            galore.zero_grad()

    def make(model):
        return GaLore(model, partial(torch.optim.AdamW, lr=0.01), rank=4, every=3)

    model, other = net(), net()
    galore, again = make(model), make(other)
    run(model, galore, range(4))
    other.load_state_dict({n: t.clone() for n, t in model.state_dict().items()})
    again.load_state_dict(saved_and_loaded(galore.state_dict()))
    for each, handle in ((model, galore), (other, again)):
        run(each, handle, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match="at rank=5; make this of the same model and rank"):
        GaLore(net(), partial(torch.optim.AdamW, lr=0.01), rank=5).load_state_dict(galore.state_dict())
