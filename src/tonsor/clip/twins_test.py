"""The twins against torch, and where they differ from it on purpose."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad as peer

import tonsor
from tonsor.clip import twins

NAMES = ["clip_grad_norm_", "clip_grad_value_", "get_total_norm", "clip_grads_with_norm_"]
FINITE = st.floats(-100, 100, width=32)
GRADS = st.lists(st.none() | st.lists(FINITE, max_size=7), max_size=6)
ORDERS = st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0, math.inf, "inf", 2, -1.0])
FOREACH = st.sampled_from([None, True, False])


def weights(grads, dtype=torch.float32):
    """Return a parameter for each list of numbers, which become its gradient."""
    found = []
    for grad in grads:
        size = 2 if grad is None else len(grad)
        found.append(torch.zeros(size, dtype=dtype, requires_grad=True))
        found[-1].grad = None if grad is None else torch.tensor(grad, dtype=dtype)
    return found


def grads_of(parameters):
    return [None if p.grad is None else p.grad.clone() for p in parameters]


def same(got, want, **tolerance):
    for left, right in zip(got, want, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right, **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_torchs_and_the_name_is_the_packages(name):
    theirs = inspect.signature(getattr(torch.nn.utils, name)).parameters.values()
    ours = inspect.signature(getattr(tonsor, name)).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    assert getattr(tonsor, name) is getattr(tonsor.clip, name)
    assert name in dir(tonsor)


@settings(max_examples=50)
@given(grads=GRADS, bound=st.floats(0, 300), order=ORDERS, foreach=FOREACH, wide=st.booleans())
def test_clipping_by_norm_is_torchs(grads, bound, order, foreach, wide):
    dtype = torch.float64 if wide else torch.float32
    if not 0 < float(order) < math.inf:  # torch's norms of these orders take no empty tensor
        grads = [grad for grad in grads if grad != []]
    ours, theirs = weights(grads, dtype), weights(grads, dtype)
    got = twins.clip_grad_norm_(ours, bound, order, foreach=foreach)
    want = peer.clip_grad_norm_(theirs, bound, order, foreach=foreach)
    if want.isfinite():
        torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-20)
        same(grads_of(ours), grads_of(theirs), rtol=2e-6, atol=1e-20)


@settings(max_examples=50)
@given(grads=GRADS, bound=st.floats(0, 300), foreach=FOREACH)
def test_clipping_by_value_is_torchs(grads, bound, foreach):
    ours, theirs = weights(grads), weights(grads)
    assert twins.clip_grad_value_(ours, bound, foreach) is None
    if any(p.grad is not None for p in theirs):  # torch's raises at an empty list
        peer.clip_grad_value_(theirs, bound, foreach)
    same(grads_of(ours), grads_of(theirs), rtol=0, atol=0)


@settings(max_examples=50)
@given(grads=GRADS, bound=st.floats(0, 300), order=ORDERS)
def test_the_two_halves_are_the_whole(grads, bound, order):
    whole, halves = weights(grads), weights(grads)
    norm = twins.clip_grad_norm_(whole, bound, order)
    total = twins.get_total_norm([p.grad for p in halves if p.grad is not None], order)
    twins.clip_grads_with_norm_(halves, bound, total)
    assert torch.equal(norm, total)
    same(grads_of(halves), grads_of(whole), rtol=0, atol=0)


@pytest.mark.parametrize("given", [lambda w: w, lambda w: [w], lambda w: iter([w]), lambda w: {w}])
def test_one_tensor_or_any_iterable(given):
    clipped, clamped = weights([[3, 4], [3, 4]])
    assert twins.clip_grad_norm_(given(clipped), 2.5) == 5
    assert twins.clip_grad_value_(given(clamped), 3.5) is None
    torch.testing.assert_close(clipped.grad, torch.tensor([1.5, 2]))
    assert clamped.grad.tolist() == [3, 3.5]
    assert twins.get_total_norm(torch.tensor([3.0, 4.0])) == 5


def test_nothing_is_a_norm_of_zero_without_a_warning():
    assert torch.equal(twins.get_total_norm([]), torch.nn.utils.get_total_norm([]))
    for empty in ([], weights([None])):
        assert torch.equal(twins.clip_grad_norm_(empty, 1), torch.tensor(0.0))
        twins.clip_grads_with_norm_(empty, 1, torch.tensor(3.0))
        twins.clip_grad_value_(empty, 1)


CALLS = [
    lambda p: twins.clip_grad_norm_(p, 1),
    lambda p: twins.clip_grad_value_(p, 1),
    lambda p: twins.clip_grads_with_norm_(p, 1, torch.tensor(9.0)),
]


@pytest.mark.parametrize("call", [*CALLS, twins.get_total_norm])
def test_an_iterator_that_is_used_up_is_seen(call):
    used = (p for p in weights([[1.0]]))
    list(used)
    for empty in (used, iter([]), map(abs, [])):
        with pytest.warns(UserWarning, match="is an empty generator") as seen:
            call(empty)
        assert seen[0].filename == __file__


@pytest.mark.parametrize("call", CALLS)
def test_gradients_given_in_place_of_parameters_are_seen(call):
    with pytest.warns(UserWarning, match="were gradients given"):
        call([torch.ones(2)])
    assert call(weights([None])) in (None, 0)


@pytest.mark.parametrize("call", [twins.clip_grad_norm_, twins.clip_grad_value_])
@pytest.mark.parametrize("bound", [-1, -math.inf, math.nan])
def test_a_bound_below_zero_or_not_a_number_is_refused(call, bound):
    (w,) = weights([[3, 4]])
    with pytest.raises(ValueError, match="must be at least 0; got"):
        call([w], bound)
    with pytest.raises(ValueError, match="max_norm must be at least 0"):
        twins.clip_grads_with_norm_([w], bound, torch.tensor(5.0))
    assert w.grad.tolist() == [3, 4]


def test_an_order_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="norm_type must be a number"):
        twins.get_total_norm([torch.ones(1)], math.nan)


def test_a_repeated_parameter_or_gradient_counts_once():
    (w,) = weights([[3, 4]])
    assert twins.clip_grad_norm_([w, w], 2.5) == 5
    torch.testing.assert_close(w.grad, torch.tensor([1.5, 2]))
    assert twins.get_total_norm([w.grad, w.grad]).item() == pytest.approx(2.5)


def test_sparse_gradients_are_clipped_as_their_dense_twins():
    for call in (lambda p: twins.clip_grad_norm_(p, 1.0), lambda p: twins.clip_grad_value_(p, 0.7)):
        table = torch.nn.Embedding(6, 2, sparse=True)
        twin = torch.nn.Embedding(6, 2, _weight=table.weight.detach().clone())
        for module in (table, twin):
            module(torch.tensor([1, 3, 3])).square().sum().backward()
        assert twins.get_total_norm([table.weight.grad]) == twins.get_total_norm([twin.weight.grad])
        call([table.weight])
        call([twin.weight])
        torch.testing.assert_close(table.weight.grad.to_dense(), twin.weight.grad)


def test_complex_values_are_clamped_by_part():
    w = torch.zeros(3, dtype=torch.complex64, requires_grad=True)
    w.grad = torch.tensor([3 - 0.5j, 0.1 + 0.2j, -4 - 4j])
    twins.clip_grad_value_([w], 1)
    torch.testing.assert_close(w.grad, torch.tensor([1 - 0.5j, 0.1 + 0.2j, -1 - 1j]))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_changes_nothing(bad):
    w, v = weights([[bad, 1.0], [2.0]])
    for bound in (1.0, 0.0, math.inf):
        assert not twins.clip_grad_norm_([w, v], bound).isfinite()
        torch.testing.assert_close(w.grad, torch.tensor([bad, 1.0]), equal_nan=True)
        assert v.grad.tolist() == [2]
    with pytest.raises(RuntimeError, match=r"The total norm of order 2\.0 for gradients"):
        twins.clip_grad_norm_([w, v], 1.0, error_if_nonfinite=True)


def test_nothing_is_written_where_nothing_is_clipped():
    (w,) = weights([[3, 4]])
    version = w.grad._version
    for bound in (5.1, math.inf):
        twins.clip_grad_norm_([w], bound)
        twins.clip_grads_with_norm_([w], bound, torch.tensor(5.0))
    twins.clip_grad_value_([w], math.inf)
    assert w.grad._version == version


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32_and_hits_the_bound(dtype):
    w = torch.zeros(100_000, dtype=dtype, requires_grad=True)
    w.grad = torch.full_like(w, 300)
    norm = twins.clip_grad_norm_([w], 1000)
    assert norm.dtype is torch.float32
    assert norm.item() == pytest.approx(300 * 100_000**0.5, rel=1e-6)
    assert w.grad.dtype is dtype
    assert twins.get_total_norm([w.grad]).item() == pytest.approx(1000, rel=4e-3)


def test_foreach_is_refused_where_torch_refuses_it():
    w = torch.zeros(2, device="meta", requires_grad=True)
    w.grad = torch.zeros(2, device="meta")
    for call in (twins.clip_grad_norm_, peer.clip_grad_norm_, twins.clip_grad_value_, peer.clip_grad_value_):
        with pytest.raises(RuntimeError, match="can't use the foreach API on meta tensors"):
            call([w], 1.0, foreach=True)
    assert twins.clip_grad_norm_([w], 1.0).device.type == "meta"


def test_the_total_may_be_a_number_and_parameters_of_several_types_share_it():
    parameters = [*weights([[3.0]]), *weights([[4.0]], torch.float64), *weights([[12.0]], torch.bfloat16)]
    assert twins.clip_grad_norm_(parameters, 6.5).dtype is torch.float64
    assert [p.grad.item() for p in parameters] == pytest.approx([1.5, 2, 6], rel=1e-6)
    twins.clip_grads_with_norm_(parameters, 3.25, 6.5)
    assert [p.grad.item() for p in parameters] == pytest.approx([0.75, 1, 3], rel=1e-6)
