"""Every measure goes with every threshold and every action, also where nobody has named the rule."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tonsor.clip import ACTIONS, MEASURES, THRESHOLDS, Clip, clamp, fixed, scale, skip
from tonsor.clip.parts import parts_of

pytestmark = pytest.mark.slow

QUICK = {
    "ZScore": {"warmup": 2},
    "MovingAverage": {"warmup": 2},
    "Steered": {"warmup": 2},
    "Spikes": {"warmup": 2},
}
QUICK["Deviations"] = {"warmup": 2, "sigma": 0.1}
REMEMBERING = ("Spikes", "Updates")  # what they measure moves with every call
PRODUCT = [(m, t, a) for m in MEASURES for t in THRESHOLDS for a in ACTIONS]
product = pytest.mark.parametrize(("measure", "threshold", "action"), PRODUCT)
pairs = pytest.mark.parametrize(("measure", "threshold"), [p[:2] for p in PRODUCT[::3]])
measures = pytest.mark.parametrize("measure", MEASURES)


def made(name):
    """Return a measure, or a threshold, that is soon awake."""
    table = MEASURES if name in MEASURES else THRESHOLDS
    is_function = name in ("fixed", "relative")
    return partial(table[name], **QUICK.get(name, {})) if is_function else table[name](**QUICK.get(name, {}))


def clip_by(measure, threshold, action="scale"):
    return Clip(made(measure), made(threshold), ACTIONS[action])


def parameters(seed, device="cpu"):
    """Return a matrix, a filter bank, a bias that comes twice and one without a gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (2, 3, 2, 2), (5,)]
    given = [torch.ones(shape, device=device, requires_grad=True) for shape in shapes]
    for parameter in given:
        size = 10 ** torch.empty(()).uniform_(-2, 2, generator=generator).item()
        parameter.grad = (size * torch.randn(parameter.shape, generator=generator)).to(device)
    return [*given, torch.ones(2, device=device, requires_grad=True), given[2]]


def grads(given):
    return [p.grad for p in given[:3]]


@product
def test_a_combination_bounds_and_goes_on_after_a_resume(measure, threshold, action):
    going, resumed = (clip_by(measure, threshold, action) for _ in range(2))
    for seed in range(10):
        if seed == 6:
            resumed.load_state_dict(copy.deepcopy(going.state_dict()))
        given, before, twin = parameters(seed), grads(parameters(seed)), parameters(seed)
        norm = going(given)
        exact = sum(grad.double().square().sum() for grad in before).sqrt()
        torch.testing.assert_close(norm.double(), exact, rtol=1e-6, atol=0)
        for grad, old in zip(grads(given), before, strict=True):
            assert (grad.abs() <= old.abs() * (1 + 1e-6)).all()
            assert (grad * old >= 0).all()
        if seed >= 6:
            assert torch.equal(resumed(twin), norm)
            assert all(torch.equal(a, b) for a, b in zip(grads(twin), grads(given), strict=True))


@product
def test_a_bad_step_changes_nothing_and_teaches_nothing(measure, threshold, action):
    clean, shaken = (clip_by(measure, threshold, action) for _ in range(2))
    for seed in range(6):
        if seed == 3:
            bad = parameters(99)
            bad[0].grad[1, 2] = torch.inf
            sound = bad[1].grad.clone()
            assert not shaken(bad).isfinite()
            assert torch.equal(bad[1].grad, sound)
            assert shaken.skip is None or not shaken.skip
        expected, got = parameters(seed), parameters(seed)
        clean(expected)
        shaken(got)
        assert all(torch.equal(a, b) for a, b in zip(grads(got), grads(expected), strict=True))


@pairs
def test_a_combination_never_waits_for_the_device(measure, threshold):
    with FakeTensorMode():
        rules = [clip_by(measure, threshold, action) for action in ACTIONS]
        for rule in (*rules, *rules):
            given = parameters_on_meta()
            assert rule(given).device.type == "meta"


def parameters_on_meta():
    given = [torch.zeros(shape, device="meta", requires_grad=True) for shape in [(3, 4), (200, 200), (5,)]]
    for parameter in given[:2]:
        parameter.grad = torch.zeros(parameter.shape, device="meta")
    return given


@pytest.mark.parametrize("measure", [m for m in MEASURES if m not in REMEMBERING])
@given(seed=st.integers(0, 999), bound=st.floats(1e-2, 1e2))
@settings(max_examples=20)
def test_scaling_holds_the_bound_keeps_each_unit_s_direction_and_twice_is_once(measure, seed, bound):
    rule, given = Clip(made(measure), partial(fixed, bound=bound), scale), parameters(seed)
    before = parts_of(parameters(seed))
    rule(given)
    after = parts_of(given)
    old, new = made(measure).norms(before), made(measure).norms(after)
    assert (new <= bound * (1 + 1e-5)).all()
    torch.testing.assert_close(new, old.clamp(max=bound), rtol=1e-5, atol=0)
    once = [grad.clone() for grad in grads(given)]
    rule(given)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=0) for a, b in zip(grads(given), once, strict=True))


@pytest.mark.parametrize("measure", ["Whole", "Group", "PerTensor", "PerUnit"])
@given(seed=st.integers(0, 999), bound=st.floats(1e-2, 1e2))
@settings(max_examples=20)
def test_clamping_by_the_largest_element_bounds_every_element(measure, seed, bound):
    given = parameters(seed)
    Clip(MEASURES[measure](by="max"), partial(fixed, bound=bound), clamp)(given)
    for grad, old in zip(grads(given), grads(parameters(seed)), strict=True):
        assert torch.equal(grad, old.clamp(-torch.tensor(bound), torch.tensor(bound)))


@measures
def test_skipping_leaves_all_or_nothing(measure):
    quiet, loud = parameters(0), parameters(0)
    rule = Clip(MEASURES[measure](), partial(fixed, bound=1e9), skip)
    rule(quiet)
    assert not rule.skip
    assert all(torch.equal(a, b) for a, b in zip(grads(quiet), grads(loud), strict=True))
    rule = Clip(made(measure), partial(fixed, bound=1e-9), skip)
    for seed in range(3):
        loud = parameters(seed)
        rule(loud)
    assert rule.skip
    assert all(not grad.any() for grad in grads(loud))


def test_a_rule_that_remembers_refuses_another_list():
    rule = clip_by("PerTensor", "ZScore")
    rule(parameters(0))
    with pytest.raises(ValueError, match="remembers 4 units and got 1"):
        rule(parameters(0)[:1])


def test_a_gradient_that_comes_late_has_a_warm_up_of_its_own():
    rule = clip_by("PerTensor", "ZScore")
    early, late = (torch.ones(1, requires_grad=True) for _ in range(2))
    for _ in range(4):
        early.grad = torch.ones(1)
        rule([early, late])
    late.grad = torch.full((1,), 50.0)
    rule([early, late])
    assert late.grad.item() == 50
    assert rule.state_dict()["steps"].tolist() == [5, 1]
