"""The rules that remember, each against its paper's formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.clip import AdaGC, SkipSpikes, SpikeClip, TargetFraction, UpdateClip, ZClip

pytestmark = pytest.mark.slow

seeds = st.integers(0, 9999)


def drawn(seed, steps, tensors=1, size=3):
    """Return gradients that wander and spike: a list of arrays a step, exact in float32."""
    generator = np.random.default_rng(seed)
    scale = np.exp(np.cumsum(generator.normal(0, 0.05, (steps, tensors, 1)), 0))
    spike = np.where(generator.random((steps, tensors, 1)) < 0.1, generator.uniform(2, 50), 1)
    return np.float64(np.float32(scale * spike * generator.normal(1, 0.3, (steps, tensors, size))))


def assert_follows(rule, gradients, oracle, rtol=1e-5):
    """Give the rule the gradients step by step and compare what it leaves with what the oracle says."""
    for step, (arrays, expected) in enumerate(zip(gradients, oracle, strict=True)):
        weights = [torch.zeros(len(array), requires_grad=True) for array in arrays]
        for weight, array in zip(weights, arrays, strict=True):
            weight.grad = torch.tensor(array, dtype=torch.float32)
        rule(weights)
        got = np.stack([weight.grad.numpy() for weight in weights])
        np.testing.assert_allclose(got, expected, rtol=rtol, err_msg=f"step {step}")


def zclip(gradients, z0, alpha, warmup, mean_only, cap):
    """Kumar et al. 2025, section 3: moments of the first norms, then exponential ones of the clipped norm."""
    norms, mean, variance = [], 0.0, 0.0
    for step, (grad,) in enumerate(gradients):
        norm = clipped = np.sqrt((grad**2).sum())
        if step < warmup:
            norms.append(norm)
            mean, variance = np.mean(norms), np.var(norms)
        else:
            z = (norm - mean) / (np.sqrt(variance) + 1e-6)
            if z > z0:
                clipped = mean if mean_only else mean + z0 * np.sqrt(variance) / (z / z0)
            mean = alpha * mean + (1 - alpha) * clipped
            variance = alpha * variance + (1 - alpha) * (clipped - mean) ** 2
        yield [grad * min(clipped, cap or np.inf, norm) / norm]


@given(seed=seeds, z0=st.floats(0.5, 3), alpha=st.floats(0.5, 0.99), mean_only=st.booleans())
@settings(max_examples=25)
def test_zclip_is_the_formula(seed, z0, alpha, mean_only):
    gradients = drawn(seed, 40)
    adjustment = "mean" if mean_only else "reciprocal"
    for cap in (None, 3.0):
        rule = ZClip(z_score=z0, alpha=alpha, warmup=8, adjustment=adjustment, max_norm=cap)
        assert_follows(rule, gradients, zclip(gradients, z0, alpha, 8, mean_only, cap))


def adagc(gradients, ratio, beta, warmup, bound):
    """Wang et al. 2025, algorithm 1."""
    gamma = None
    for step, grads in enumerate(gradients):
        norms = np.sqrt((grads**2).sum(1))
        if step < warmup:
            left = norms * min(1.0, bound / np.sqrt((norms**2).sum()))
            gamma = left if gamma is None else np.minimum(gamma, left)
        else:
            left = np.minimum(norms, ratio * gamma)
            gamma = beta * gamma + (1 - beta) * left
        yield grads * (left / norms)[:, None]


@given(seed=seeds, ratio=st.floats(1.01, 3), beta=st.floats(0.5, 0.99), bound=st.floats(0.1, 10))
@settings(max_examples=25)
def test_adagc_is_the_formula(seed, ratio, beta, bound):
    gradients = drawn(seed, 40, tensors=3)
    rule = AdaGC(ratio=ratio, beta=beta, warmup=10, max_norm=bound)
    assert_follows(rule, gradients, adagc(gradients, ratio, beta, 10, bound))


def spam(gradients, theta, beta, warmup):
    """Huang et al. 2025, equation of the spike-aware clipping, with Adam's second moment."""
    moment = np.zeros_like(gradients[0])
    for step, grads in enumerate(gradients):
        is_spike = (grads**2 > theta * moment) & (step >= warmup)
        left = np.where(is_spike, np.sign(grads) * np.sqrt(theta * moment), grads)
        moment = beta * moment + (1 - beta) * left**2
        yield left


@given(seed=seeds, theta=st.floats(1, 20), beta=st.floats(0.5, 0.99))
@settings(max_examples=25)
def test_spike_clip_is_the_formula(seed, theta, beta):
    gradients = drawn(seed, 30, tensors=2)
    rule = SpikeClip(theta=theta, beta=beta, warmup=5)
    assert_follows(rule, gradients, spam(gradients, theta, beta, 5), rtol=1e-4)


def test_spike_clip_leaves_an_element_that_never_had_a_gradient():
    rule = SpikeClip(warmup=2)
    for step in range(4):
        weight = torch.zeros(2, requires_grad=True)
        weight.grad = torch.tensor([1.0, 0.0 if step < 3 else 1e6])
        rule([weight])
    assert weight.grad[1] == 1e6


def adafactor(gradients, bound, beta):
    """Shazeer and Stern 2018, section 6, with the bias-corrected second moment."""
    moment = np.zeros_like(gradients[0])
    for step, grads in enumerate(gradients, start=1):
        moment = beta * moment + (1 - beta) * grads**2
        update = grads / np.sqrt(moment / (1 - beta**step))
        rms = np.sqrt((update**2).mean(1, keepdims=True))
        yield grads / np.maximum(1, rms / bound)


@given(seed=seeds, bound=st.floats(0.2, 2), beta=st.floats(0.5, 0.999))
@settings(max_examples=25)
def test_update_clip_is_the_formula(seed, bound, beta):
    gradients = drawn(seed, 30, tensors=2)
    assert_follows(UpdateClip(bound=bound, beta=beta), gradients, adafactor(gradients, bound, beta))


def skipped(gradients, sigma, window, warmup):
    """OLMo 2's skipped steps: sigma deviations above the mean of the norms before."""
    norms = []
    for (grad,) in gradients:
        norm, last = np.sqrt((grad**2).sum()), norms[-window:]
        is_spike = len(last) >= warmup and norm > np.mean(last) + sigma * np.std(last, ddof=1)
        norms.append(norm)
        yield [grad * (not is_spike)]


@given(seed=seeds, sigma=st.floats(0.5, 4))
@settings(max_examples=25)
def test_skip_spikes_is_the_formula(seed, sigma):
    gradients = drawn(seed, 60)
    rule = SkipSpikes(sigma=sigma, window=12, warmup=6)
    assert_follows(rule, gradients, skipped(gradients, sigma, 12, 6))


def test_a_norm_that_falls_is_never_skipped():
    rule = SkipSpikes(sigma=0.5, warmup=2)
    for norm in (5.0, 5.1, 4.9, 1e-3):
        weight = torch.zeros(1, requires_grad=True)
        weight.grad = torch.tensor([norm])
        rule([weight])
        assert not rule.skip


def steered(gradients, fraction, rate, warmup):
    """Andrew et al. 2021, the geometric update of the threshold, one norm at a step."""
    bound = 0.0
    for step, (grad,) in enumerate(gradients):
        norm = np.sqrt((grad**2).sum())
        if step < warmup:
            bound = max(bound, norm)
            yield [grad]
            continue
        yield [grad * min(1, bound / norm)]
        bound *= np.exp(rate * ((norm > bound) - fraction))


@given(seed=seeds, fraction=st.floats(0.01, 0.9), rate=st.floats(0.01, 1))
@settings(max_examples=25)
def test_target_fraction_is_the_formula(seed, fraction, rate):
    gradients = drawn(seed, 60)
    rule = TargetFraction(fraction=fraction, rate=rate, warmup=5)
    assert_follows(rule, gradients, steered(gradients, fraction, rate, 5))


@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("drift", [-0.003, 0.0, 0.003])
def test_about_the_wanted_share_of_steps_is_clipped(fraction, drift):
    generator, rule, over = np.random.default_rng(0), TargetFraction(fraction=fraction), 0
    for step in range(1500):
        weight = torch.zeros(1, requires_grad=True)
        weight.grad = torch.tensor([np.exp(drift * step + 0.3 * generator.normal())], dtype=torch.float32)
        over += (rule([weight]) > weight.grad.abs() * (1 + 1e-6)).item()
    assert over / 1500 == pytest.approx(fraction, abs=0.02)


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        (ZClip, {"z_score": 0.0}),
        (ZClip, {"alpha": 1.0}),
        (ZClip, {"warmup": 0}),
        (ZClip, {"adjustment": "maen"}),
        (ZClip, {"max_norm": -1.0}),
        (AdaGC, {"ratio": 0.0}),
        (AdaGC, {"beta": 1.0}),
        (AdaGC, {"max_norm": -1.0}),
        (SpikeClip, {"theta": 0.0}),
        (SpikeClip, {"beta": -0.1}),
        (UpdateClip, {"bound": 0.0}),
        (UpdateClip, {"eps": 0.0}),
        (SkipSpikes, {"sigma": 0.0}),
        (SkipSpikes, {"warmup": 1}),
        (TargetFraction, {"fraction": 1.0}),
        (TargetFraction, {"rate": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(rule, bad):
    (name, value) = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"clip.*{name}.*{value}"):
        rule(**bad)
