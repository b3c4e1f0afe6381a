"""Distillation is its formula, and nothing where its weight is nothing."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.prune import DISTILLATIONS, same_outputs, soft_targets

every_rule = pytest.mark.parametrize("rule", DISTILLATIONS.values(), ids=DISTILLATIONS)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 3


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(
    temperature=st.floats(0.5, 20), weight=st.floats(0, 1), seed=st.integers(0, 99), classes=st.integers(2, 6)
)
@settings(max_examples=50)
def test_soft_targets_is_hintons_formula(temperature, weight, seed, classes):
    outputs, taught = drawn(4, classes, seed=seed), drawn(4, classes, seed=seed + 1)
    p, q = softmax(taught.numpy() / temperature), softmax(outputs.numpy() / temperature)
    divergence = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    expected = (1 - weight) * 1.5 + weight * temperature**2 * divergence
    got = soft_targets(
        torch.tensor(1.5, dtype=torch.float64), outputs, taught, temperature=temperature, weight=weight
    )
    np.testing.assert_allclose(got.item(), expected, rtol=1e-9)


def test_the_gradient_of_the_soft_part_does_not_shrink_with_the_temperature():
    """At high temperature it tends to (z - t) / classes, the logits centred (Hinton 2015, equation 4)."""
    outputs, taught = drawn(1, 5).requires_grad_(), drawn(1, 5, seed=1)
    soft_targets(torch.zeros(()), outputs, taught, temperature=1e4, weight=1.0).backward()
    z, t = (x.detach().numpy() - x.detach().numpy().mean() for x in (outputs, taught))
    np.testing.assert_allclose(outputs.grad.numpy(), (z - t) / 5, rtol=1e-2, atol=1e-3)


def test_sequences_are_averaged_over_all_their_places():
    outputs, taught = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    flat = soft_targets(torch.zeros(()), outputs.view(6, 4), taught.view(6, 4))
    assert torch.equal(soft_targets(torch.zeros(()), outputs, taught), flat)


def test_same_outputs_is_the_mean_square():
    outputs, taught = drawn(4, 3), drawn(4, 3, seed=1)
    expected = 0.3 * 2 + 0.7 * ((outputs - taught).numpy() ** 2).mean()
    got = same_outputs(torch.tensor(2.0, dtype=torch.float64), outputs, taught, weight=0.7)
    np.testing.assert_allclose(got.item(), expected, rtol=1e-12)


@every_rule
def test_at_weight_zero_the_loss_comes_back_itself(rule):
    loss = torch.tensor(1.0, requires_grad=True)
    assert rule(loss, drawn(2, 3), drawn(2, 3, seed=1), weight=0.0) is loss


@every_rule
def test_at_weight_one_a_student_that_answers_alike_has_no_loss(rule):
    assert rule(torch.tensor(7.0), drawn(2, 3), drawn(2, 3), weight=1.0).abs() < 1e-12


@every_rule
def test_no_gradient_flows_into_the_teacher(rule):
    outputs, taught = drawn(2, 3).requires_grad_(), drawn(2, 3, seed=1).requires_grad_()
    rule(torch.zeros(()), outputs, taught).backward()
    assert outputs.grad.abs().sum() > 0
    assert taught.grad is None


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(rule, dtype):
    outputs, taught = drawn(4, 3).to(dtype), drawn(4, 3, seed=1).to(dtype)
    got, exact = (rule(torch.zeros(()), *(x.to(t) for x in (outputs, taught))) for t in (dtype, torch.double))
    np.testing.assert_allclose(got.item(), exact.item(), rtol=1e-5)


@every_rule
def test_a_rule_obeys_the_one_law(rule):
    loss, outputs, taught, *tuned = inspect.signature(rule).parameters.values()
    assert {p.kind for p in (loss, outputs, taught)} == {inspect.Parameter.POSITIONAL_ONLY}
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in tuned)
    assert rule.__name__ in DISTILLATIONS


@every_rule
@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(rule, weight):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        rule(torch.zeros(()), drawn(2, 3), drawn(2, 3), weight=weight)


@every_rule
def test_answers_of_different_shape_are_refused(rule):
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        rule(torch.zeros(()), drawn(2, 3), drawn(2, 4))


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="above 0; got 0"):
        soft_targets(torch.zeros(()), drawn(2, 3), drawn(2, 3), temperature=0)
    with pytest.raises(ValueError, match="take 'same_outputs'"):
        soft_targets(torch.zeros(()), drawn(2, 1), drawn(2, 1))
