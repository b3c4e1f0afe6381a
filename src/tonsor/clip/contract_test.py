"""Every rule of the clip room keeps the room's promises; a new line in the table is tested at once."""

import copy
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tonsor.clip import RULES

rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def bound(rule, **settings):
    """Return the rule as a Clipper, whether it is a function or a class."""
    return rule(**settings) if inspect.isclass(rule) else rule


def parameters(seed=0, device="cpu"):
    """Return small parameters with gradients, the second one tied and the third without a gradient."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.zeros(3, 4, device=device), torch.zeros(5, device=device)
    for parameter in (first, second):
        parameter.requires_grad_()
        parameter.grad = 100 * torch.randn(parameter.shape, generator=generator).to(device)
    return [first, second, torch.zeros(2, device=device, requires_grad=True), second]


@rules
def test_a_rule_obeys_the_one_law(rule):
    function = rule.__call__ if inspect.isclass(rule) else rule
    first = next(p for p in inspect.signature(function).parameters.values() if p.name != "self")
    assert first.kind is inspect.Parameter.POSITIONAL_ONLY
    tuned = [p for p in inspect.signature(rule).parameters.values() if p.name != first.name]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in tuned)
    assert all(p.default is not inspect.Parameter.empty for p in tuned)
    assert hasattr(rule, "state_dict") == hasattr(rule, "load_state_dict") == inspect.isclass(rule)


@rules
def test_the_norm_is_that_from_before_with_a_tied_parameter_counted_once(rule):
    given = parameters()
    oracle = sum(p.grad.double().square().sum() for p in given[:2]).sqrt()
    norm = bound(rule)(given)
    assert norm.shape == ()
    torch.testing.assert_close(norm.double(), oracle, rtol=1e-6, atol=0)


@rules
def test_no_element_grows_or_turns(rule):
    given = parameters()
    before = [p.grad.clone() for p in given[:2]]
    bound(rule)(given)
    for parameter, old in zip(given[:2], before, strict=True):
        assert (parameter.grad.abs() <= old.abs()).all()
        assert (parameter.grad * old >= 0).all()


@rules
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
@settings(max_examples=10)
def test_the_joint_norm_never_grows(rule, seed, scale):
    drawn = parameters(seed)
    for parameter in drawn[:2]:
        parameter.grad.mul_(scale)
    before = bound(rule)(drawn)
    after = sum(p.grad.double().square().sum() for p in drawn[:2]).sqrt()
    assert after <= before.double() * (1 + 1e-6)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not inspect.isclass(rule)])
@given(seed=st.integers(0, 99))
@settings(max_examples=10)
def test_twice_is_once(name, seed):
    drawn = parameters(seed)
    RULES[name](drawn)
    once = [p.grad.clone() for p in drawn[:2]]
    RULES[name](drawn)
    for parameter, old in zip(drawn[:2], once, strict=True):
        torch.testing.assert_close(parameter.grad, old, rtol=1e-6, atol=0)


@rules
def test_a_weight_of_zero_can_move(rule):
    """Its gradient begins at zero (the first factor of a LoRA pair), then comes; no rule may hold it."""
    clip, weight = bound(rule), torch.zeros(2, 3, requires_grad=True)
    for step in range(200):
        weight.grad = torch.zeros(2, 3) if step < 3 else torch.full((2, 3), 0.1)
        clip([weight])
    assert (weight.grad > 0).all()


@rules
def test_what_a_rule_tells_of_a_step_lies_on_the_device_and_fits(rule):
    clip, given = bound(rule), parameters()
    clip(given)
    threshold, skip = getattr(clip, "threshold", None), getattr(clip, "skip", None)
    assert threshold is None or (isinstance(threshold, torch.Tensor) and not threshold.requires_grad)
    assert skip is None or (skip.shape == () and skip.dtype is torch.bool)
    assert (threshold is None) == (not inspect.isclass(rule))


@rules
def test_a_rule_that_tells_its_factor_scales_by_it(rule):
    told, given = parameters(), parameters()
    factor = getattr(bound(rule), "factor", None)
    if factor is None:
        return
    norm, share = factor(told)
    assert torch.equal(told[0].grad, parameters()[0].grad)
    assert torch.equal(bound(rule)(given), norm)
    torch.testing.assert_close(given[0].grad, told[0].grad * share)
    scaled, _ = bound(rule).factor(told, scale=torch.tensor(4.0))
    torch.testing.assert_close(scaled, norm / 4)


@rules
def test_gradients_of_zero_stay_zero(rule):
    weight = torch.zeros(3, requires_grad=True)
    weight.grad = torch.zeros(3)
    assert bound(rule)([weight]) == 0
    assert torch.equal(weight.grad, torch.zeros(3))


@rules
def test_nothing_to_clip_is_a_norm_of_zero(rule):
    assert bound(rule)([]) == 0
    assert bound(rule)([torch.zeros(2, requires_grad=True)]) == 0


@rules
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_seen_and_spares_the_sound_gradients(rule, bad):
    given = parameters()
    given[0].grad[0, 0] = bad
    given[1].grad.clamp_(-0.5, 0.5)
    sound = given[1].grad.clone()
    norm = bound(rule)(given)
    assert not norm.isfinite()
    assert torch.equal(given[1].grad, sound)


@rules
def test_a_bad_step_does_not_break_the_rule(rule):
    clean, shaken = bound(rule), bound(rule)
    bad = parameters()
    bad[0].grad.fill_(float("nan"))
    shaken(bad)
    for seed in range(3):
        expected, got = parameters(seed), parameters(seed)
        clean(expected)
        shaken(got)
        assert torch.equal(got[0].grad, expected[0].grad)


@rules
def test_a_sparse_gradient_is_clipped_as_its_dense_twin(rule):
    table = torch.nn.Embedding(6, 2, sparse=True)
    twin = torch.nn.Embedding(6, 2, _weight=table.weight.detach().clone())
    rows = torch.tensor([1, 3, 3])
    for module in (table, twin):
        (100 * module(rows)).sum().backward()
        bound(rule)([module.weight])
    assert torch.equal(table.weight.grad.to_dense(), twin.weight.grad)


@rules
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_half_precision_norm_does_not_overflow(rule, dtype):
    weight = torch.ones(100_000, dtype=dtype, requires_grad=True)
    weight.grad = torch.full_like(weight, 300)
    norm = bound(rule)([weight])
    assert norm.double() == pytest.approx(300 * 100_000**0.5, rel=1e-3)
    assert weight.grad.dtype is dtype
    assert (weight.grad > 0).all()


@rules
def test_gradients_beyond_float32_are_clipped_as_in_float64(rule):
    narrow, wide = (
        torch.ones(3, 4, dtype=dtype, requires_grad=True) for dtype in (torch.float32, torch.float64)
    )
    for weight in (narrow, wide):
        weight.grad = torch.arange(12.0).reshape(3, 4).to(weight.dtype) * 1e30
        bound(rule)([weight])
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-5, atol=0)


@rules
def test_a_complex_gradient_is_clipped(rule):
    weight = torch.ones(3, dtype=torch.complex64, requires_grad=True)
    weight.grad = torch.tensor([3 + 4j, 0, -30j])
    norm = bound(rule)([weight])
    assert norm == pytest.approx(925**0.5, rel=1e-6)
    assert (weight.grad.abs() <= torch.tensor([5.0, 0, 30]) * (1 + 1e-6)).all()


@rules
def test_a_rule_never_waits_for_the_device(rule):
    with FakeTensorMode():
        given = []
        for shape in ((3, 4), (200, 200)):
            parameter = torch.zeros(shape, device="meta", requires_grad=True)
            parameter.grad = torch.zeros(shape, device="meta")
            given.append(parameter)
        clip = bound(rule)
        for _ in range(2):
            assert clip(given).device.type == "meta"


@pytest.mark.parametrize("rule", [r for r in RULES.values() if inspect.isclass(r)], ids=lambda r: r.__name__)
def test_resume_is_continue(rule):
    going, resumed = rule(), rule()
    for seed in range(4):
        going(parameters(seed))
    resumed.load_state_dict(copy.deepcopy(going.state_dict()))
    for seed in range(4, 8):
        expected, got = parameters(seed), parameters(seed)
        assert torch.equal(going(expected), resumed(got))
        assert torch.equal(got[0].grad, expected[0].grad)
    assert repr(going) == repr(eval(repr(going), {rule.__name__: rule}))
