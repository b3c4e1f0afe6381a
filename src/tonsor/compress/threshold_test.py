import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Comm, ErrorFeedback, Threshold
from tonsor.compress.message import pack_sparse
from tonsor.compress.sparse import sparse
from tonsor.compress.threshold import fitted_threshold
from tonsor.compress.workers_test import SIZES, bucket, together, workers


def kept(grad, threshold, limit):
    """Return what reaches the threshold, the largest of it, of equal ones the first, in float64."""
    flat = grad.double().numpy().reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")
    order = order[(np.abs(flat[order]) >= threshold) & (flat[order] != 0)][:limit]
    out = np.zeros_like(flat)
    out[order] = flat[order]
    return out.reshape(grad.shape)


def by_stages(grad, density):
    """Return the threshold of exponential fits, in float64."""
    sizes = np.abs(grad.double().numpy().reshape(-1))
    stages = max(1, math.ceil(math.log(density) / math.log(0.25)))
    threshold = 0.0
    for _ in range(stages):
        over = sizes[sizes >= threshold]
        threshold += (over - threshold).mean() * math.log(1 / density) / stages if over.size else 0.0
    return min(threshold, sizes.max())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    size=st.sampled_from(SIZES),
    value=st.sampled_from([0.5, 1.5, 2.5, 9.0]),
    most=st.sampled_from([0.01, 0.1, 1.0]),
)
def test_the_mean_is_that_of_what_reaches_the_threshold(seed, size, value, most):
    grads = [bucket(seed + rank, shapes={"a": (12, 30), "b": (40, 5)}) for rank in range(size)]
    got = together([Threshold(value=value, most=most)] * size, grads)
    for name in ("a", "b"):
        limit = round(most * grads[0][name].numel())
        want = [kept(each[name], value, limit) for each in grads]
        np.testing.assert_array_equal(got[-1].sent[name].numpy(), want[-1])
        np.testing.assert_allclose(got[0].mean[name].numpy(), sum(want) / size, atol=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), density=st.sampled_from([0.3, 0.1, 0.01]), power=st.sampled_from([1, 3]))
def test_without_a_value_the_threshold_is_fitted_in_stages(seed, density, power):
    grad = bucket(seed, shapes={"w": (50, 60)})["w"].pow(power)
    want = by_stages(grad, density)
    got = fitted_threshold(grad.view(-1), density)
    np.testing.assert_allclose(got.item(), want, rtol=1e-4)
    sent = Threshold(density=density, most=1.0)({"w": grad}, Comm()).sent["w"]
    np.testing.assert_array_equal(sent.numpy(), kept(grad, got.item(), 3000))


@pytest.mark.parametrize("density", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("kind", ["normal", "exponential", "heavy"])
def test_about_the_wanted_fraction_is_sent(density, kind):
    values = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    if kind == "exponential":
        values = values.sign() * -torch.special.ndtr(-values.abs()).log()
    elif kind == "heavy":
        values = values * values.abs().exp()
    sent = Threshold(density=density, most=1.0)({"w": values}, Comm()).sent["w"]
    assert 0.4 < sent.count_nonzero() / (density * values.numel()) < 2.5


def test_a_worker_that_has_more_to_send_makes_the_others_wait_and_that_is_counted():
    grads = [{"w": torch.zeros(100, 100)} for _ in range(3)]
    grads[1]["w"][:3] = 2.0
    comms = workers(3)
    rules = [Threshold(value=1.0) for _ in range(3)]
    for averaged in together(rules, grads, comms):
        torch.testing.assert_close(averaged.mean["w"], grads[1]["w"] / 3)
    longest = pack_sparse([sparse(torch.full((300,), 2.0), torch.arange(300), 10_000)]).numel()
    assert [(comm.bytes_sent, comm.messages) for comm in comms] == [(8 + longest, 2)] * 3


def test_at_most_the_largest_fraction_is_sent_the_first_of_equal_ones():
    sent = Threshold(value=0.5, most=0.03)({"w": torch.full((10, 100), -0.5)}, Comm()).sent["w"]
    assert torch.equal(sent.view(-1).nonzero().view(-1), torch.arange(30))


@pytest.mark.parametrize("rule", [Threshold(), Threshold(value=1e-30)])
def test_zeros_are_never_sent_and_a_constant_is(rule):
    assert not rule({"w": torch.zeros(20, 30)}, Comm()).sent["w"].any()
    assert rule({"w": torch.full((20, 30), 1e-3)}, Comm()).sent["w"].count_nonzero() == 60


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_fitted_in_half_precision_is_reached_by_something(dtype):
    for seed in range(20):
        grad = bucket(seed, shapes={"w": (9, 11)}, dtype=dtype, scale=1e-3)["w"]
        assert Threshold()({"w": grad}, Comm()).sent["w"].any()


def test_error_feedback_brings_what_is_below_the_threshold():
    rule = ErrorFeedback(Threshold(value=1.0))
    grads = {"w": torch.full((10, 10), 0.3)}
    means = [rule(grads, Comm()).mean["w"].sum().item() for _ in range(4)]
    assert means[:3] == [0, 0, 0]
    assert means[3] == pytest.approx(12.0)  # a tenth of the hundred, 1.2 each


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"value": 0}, "value must be above 0, or None; got 0"),
        ({"value": float("nan")}, "value must be above 0"),
        ({"density": 2}, r"density must lie in \(0, 1\]; got 2"),
        ({"most": 0}, r"most must lie in \(0, 1\]; got 0"),
        ({"bits": 1}, "bits must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Threshold(**settings)
