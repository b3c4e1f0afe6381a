import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.clip import by_value, value


def weight(grad):
    found = torch.zeros_like(grad, requires_grad=True)
    found.grad = grad.clone()
    return found


@given(
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    bound=st.floats(0.1, 3),
)
@settings(max_examples=30)
def test_block_by_block_is_norm_then_clamp(sizes, seed, bound):
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(size, generator=generator) for size in sizes]
    weights = [weight(grad) for grad in grads]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_value, "CACHED", 4096)
        norm = value(weights, clip_value=bound)
    assert norm.item() == pytest.approx(torch.cat(grads).double().norm().item(), rel=1e-6)
    assert norm.dtype is torch.float32
    for each, grad in zip(weights, grads, strict=True):
        assert torch.equal(each.grad, grad.clamp(-bound, bound))


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_a_block_beyond_float32_is_measured_before_it_is_clamped(factor, monkeypatch):
    monkeypatch.setattr(by_value, "CACHED", 4096)
    grad = torch.linspace(1, 2, 10_000) * factor
    each = weight(grad)
    norm = value([each], clip_value=1.5 * factor)
    assert norm.item() == pytest.approx(grad.double().norm().item(), rel=1e-6)
    assert each.grad.max() == torch.tensor(1.5 * factor)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_element_of_a_block_shows_in_the_norm(bad, monkeypatch):
    monkeypatch.setattr(by_value, "CACHED", 4096)
    grad = torch.ones(10_000)
    grad[5000] = bad
    each = weight(grad)
    assert not value([each], clip_value=0.5).isfinite()
    assert (each.grad[:5000] == 0.5).all()
    assert each.grad[5000].isnan() == math.isnan(bad)
