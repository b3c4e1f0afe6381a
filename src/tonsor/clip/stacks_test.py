"""Parts taken together are measured and scaled as each by itself: against NumPy, part by part."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.clip import PerUnit, Units
from tonsor.clip.parts import parts_of
from tonsor.clip.units import together
from tonsor.tensors import ONE_PASS, in_one_run

SHAPES = [(3, 4), (3, 4), (3, 4), (5,), (5,), (), (2, 3, 2, 2), (2, 3, 2, 2)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def weights_of(shapes, dtype=torch.float32, seed=0, is_joined=False):
    """Return weights with gradients, apart or in one buffer."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = torch.randn(sum(sizes), generator=generator).to(dtype).split(sizes)
    found = []
    for shape, part in zip(shapes, parts, strict=True):
        weight = torch.ones(shape, dtype=dtype, requires_grad=True)
        weight.grad = (part if is_joined else part.clone()).view(shape)
        found.append(weight)
    return found


def sizes_by_hand(grad, unit_dim, by):
    """Return what a unit measures, in NumPy."""
    values = np.abs(grad.double().numpy())
    kept = unit_dim if values.ndim > 1 else None
    rows = (
        np.moveaxis(values, kept, 0).reshape(values.shape[kept], -1)
        if kept is not None
        else values.reshape(1, -1)
    )
    norms = np.sqrt((rows**2).sum(1))
    return {"norm": norms, "rms": norms / np.sqrt(rows.shape[1]), "max": rows.max(1)}[by]


@pytest.mark.parametrize("by", ["norm", "rms", "max"])
@pytest.mark.parametrize("unit_dim", [0, 1])
@given(
    picks=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=12),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    is_joined=st.booleans(),
)
@settings(max_examples=20)
def test_each_unit_is_measured_and_scaled_by_itself(by, unit_dim, picks, dtype, seed, is_joined):
    weights = weights_of(picks, dtype, seed, is_joined)
    before = [weight.grad.clone() for weight in weights]
    measure, parts = PerUnit(unit_dim=unit_dim, by=by), parts_of(weights)
    norms = measure.norms(parts)
    oracle = [sizes_by_hand(grad, unit_dim, by) for grad in before]
    np.testing.assert_allclose(norms.double().numpy(), np.concatenate(oracle), rtol=1e-5)
    factors = torch.linspace(0.2, 1.0, len(norms)).to(norms.dtype)
    factors[::3] = 1.0
    measure.scale_(parts, factors)
    start = 0
    for weight, grad, units in zip(weights, before, oracle, strict=True):
        own = factors[start : start + len(units)].double()
        start += len(units)
        shape = [-1 if i == unit_dim else 1 for i in range(grad.ndim)] if grad.ndim > 1 else [1] * grad.ndim
        exact = grad.double() * own.view(shape)
        torch.testing.assert_close(
            weight.grad.double(), exact, rtol=1e-2 if dtype is torch.bfloat16 else 1e-6, atol=1e-12
        )


def test_odd_parts_stay_alone_between_those_that_are_alike():
    weights = weights_of([(3, 4)] * 4)
    weights[1].grad = None
    weights[2].grad = torch.sparse_coo_tensor([[1]], torch.full((1, 4), 2.0), (3, 4), check_invariants=True)
    norms = PerUnit().norms(parts_of(weights))
    exact = [sizes_by_hand(weights[i].grad, 0, "norm") for i in (0, 3)]
    np.testing.assert_allclose(norms[:3], exact[0], rtol=1e-6)
    assert norms[3:9].tolist() == [0, 0, 0, 0, 4, 0]
    np.testing.assert_allclose(norms[9:], exact[1], rtol=1e-6)
    assert [group.places for group in together(parts_of(weights), 0)] == [[0, 3], [1], [2]]


def test_a_function_tells_the_units_of_each():
    weights = weights_of([(3, 4)] * 4)
    told = {
        id(w): units for w, units in zip(weights, [Units((0,)), Units((1,)), Units((0,)), None], strict=True)
    }
    measure, parts = PerUnit(unit_dim=lambda weight: told[id(weight)]), parts_of(weights)
    exact = [sizes_by_hand(w.grad, dim, "norm") for w, dim in zip(weights, (0, 1, 0), strict=False)]
    norms = measure.norms(parts)
    np.testing.assert_allclose(norms, np.concatenate(exact), rtol=1e-6)
    joint = np.sqrt(sum((w.grad.double() ** 2).sum().item() for w in weights))
    assert measure.joint(parts, norms).item() == pytest.approx(joint, rel=1e-6)


@pytest.mark.parametrize("changed", [1, 200])
def test_of_a_large_gradient_few_rows_or_all_are_written(changed):
    (weight,) = weights_of([(256, 2 * ONE_PASS // 256)])
    before, factors = weight.grad.clone(), torch.ones(256)
    factors[:changed] = 0.5
    measure = PerUnit()
    measure.scale_(parts_of([weight]), factors)
    assert torch.equal(weight.grad, before * factors.unsqueeze(1))


def test_one_run_is_seen_in_its_order_alone():
    buffer = torch.arange(12.0)
    first, second, third = buffer.split(4)
    assert torch.equal(in_one_run([first, second.view(2, 2), third]), buffer)
    assert in_one_run([second, first, third]) is None
    assert in_one_run([first, third]) is None
    assert in_one_run([first, second.clone()]) is None
    assert in_one_run([]) is None
