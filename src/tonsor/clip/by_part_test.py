import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.clip import block_rms, blocks, group_norm, norm

tensors = st.lists(
    st.lists(st.floats(-1e3, 1e3, allow_nan=False, width=32), min_size=1, max_size=9), min_size=1, max_size=6
)
bounds = st.floats(1e-3, 1e3)


def weights(grads):
    given = [torch.zeros(len(grad), requires_grad=True) for grad in grads]
    for weight, grad in zip(given, grads, strict=True):
        weight.grad = torch.tensor(grad, dtype=torch.float32)
    return given


def shortened(grad, size, bound):
    """Return the float64 oracle: a gradient whose size is at most the bound."""
    return grad * (bound / size) if size > bound else grad


def exact(grads):
    return [np.array(grad, dtype=np.float32).astype(np.float64) for grad in grads]


def assert_grads(given, oracle):
    for weight, grad in zip(given, oracle, strict=True):
        np.testing.assert_allclose(weight.grad.numpy(), grad, rtol=1e-5, atol=1e-30)


@settings(max_examples=50)
@given(grads=tensors, bound=bounds)
def test_norm_bounds_each_tensor(grads, bound):
    given = weights(grads)
    norm(given, max_norm=bound)
    assert_grads(given, [shortened(g, np.sqrt((g**2).sum()), bound) for g in exact(grads)])


@settings(max_examples=50)
@given(grads=tensors, bound=bounds)
def test_block_rms_bounds_each_tensor_s_root_mean_square(grads, bound):
    given = weights(grads)
    block_rms(given, max_rms=bound)
    assert_grads(given, [shortened(g, np.sqrt((g**2).mean()), bound) for g in exact(grads)])


@settings(max_examples=50)
@given(grads=tensors, bound=bounds, cut=st.integers(0, 6), other=bounds)
def test_group_norm_bounds_each_group(grads, bound, cut, other):
    cut = min(cut, len(grads))
    given = weights(grads)
    group_norm(given, max_norm=[bound, other], groups=[cut, len(grads) - cut])
    oracle = []
    for group, limit in ((exact(grads)[:cut], bound), (exact(grads)[cut:], other)):
        size = np.sqrt(sum((g**2).sum() for g in group))
        oracle += [shortened(g, size, limit) for g in group]
    assert_grads(given, oracle)


def test_a_sparse_gradient_s_zeros_count_in_its_root_mean_square():
    table = nn.Embedding(8, 1, sparse=True)
    table(torch.tensor([2, 2])).sum().backward()
    block_rms([table.weight], max_rms=0.5)
    torch.testing.assert_close(table.weight.grad.to_dense().norm() / 8**0.5, torch.tensor(0.5))


def test_a_parameter_that_comes_again_belongs_to_its_first_group():
    one, two = weights([[3.0], [4.0]])
    group_norm([one, two, one], groups=[2, 1], max_norm=2.5)
    assert [one.grad.item(), two.grad.item()] == [1.5, 2]


def test_named_blocks_are_clipped_apart():
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), "head": nn.Linear(1, 1)})
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    group_norm(list(model.parameters()), groups=blocks(model))
    assert [p.grad.item() for p in model.parameters()] == pytest.approx([0.5] * 4 + [0.5**0.5] * 2)
    assert {blocks(model, depth=2)(p) for p in model.parameters()} == {"body.0", "body.1", "head"}


def test_a_parameter_of_another_model_is_refused():
    stranger = nn.Linear(1, 1).weight
    stranger.grad = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"shape \(1, 1\) does not belong to the model"):
        group_norm([stranger], groups=blocks(nn.Linear(1, 1)))


def test_groups_that_do_not_hold_all_are_refused_and_nothing_is_touched():
    given = weights([[3.0], [4.0]])
    with pytest.raises(ValueError, match=r"groups \[1\] hold 1 parameters; got at least 2"):
        group_norm(given, groups=[1])
    assert given[0].grad.item() == 3


@pytest.mark.parametrize("bound", [0, -1, float("nan")])
@pytest.mark.parametrize(
    ("rule", "key"), [(norm, "max_norm"), (group_norm, "max_norm"), (block_rms, "max_rms")]
)
def test_a_bound_that_is_not_above_zero_is_refused(rule, key, bound):
    given = weights([[3.0]])
    with pytest.raises(ValueError, match=f"{key} must be above 0; got {bound}"):
        rule(given, **{key: bound})
    assert given[0].grad.item() == 3
