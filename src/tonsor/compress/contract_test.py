import copy
import inspect
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tonsor.compress import RULES, WRAPPERS, Comm, ErrorFeedback, TopK, dense
from tonsor.compress.workers_test import SHAPES, SIZES, bucket, same, together
from tonsor.schedule import exponential

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# Settings with which a wrapper does what it is for within a few steps and small tensors.
SETTINGS = {
    "EF21": {"momentum": 0.5},
    "Warmup": {"steps": 1, "sparsity": partial(exponential, initial=0.7, final=0.9, stop=3)},
    "OnlyLarge": {"min_numel": 100},
    "PerLayer": {"layers": {"wide": dense, "con*": ErrorFeedback(TopK(density=0.2))}},
    "ErrorBudget": {"patience": 1},
}


def make(name):
    """Return a rule with its defaults; `ErrorFeedback+TopK` is wrapped."""
    *wrappers, inner = name.split("+")
    rule = RULES[inner]() if inspect.isclass(RULES[inner]) else RULES[inner]
    for wrapper in reversed(wrappers):
        settings = dict(SETTINGS.get(wrapper, {}))
        if not hasattr(rule, "density"):
            settings.pop("sparsity", None)
        rule = WRAPPERS[wrapper](rule, **copy.deepcopy(settings))
    return rule


KINDS = ("dense", "int8", "TopK", "PowerSGD")  # whole, few bits, few elements, few directions
WRAPPED = [f"{w}+{rule}" for w in WRAPPERS for rule in (RULES if w == "ErrorFeedback" else KINDS)]
FED = [f"ErrorFeedback+{rule}" for rule in RULES]
FED += [f"ErrorFeedback+{wrapper}+TopK" for wrapper in WRAPPERS if wrapper != "ErrorFeedback"]
ALL = [*RULES, *WRAPPED]
AT_RANDOM = {"QSGD", "TernGrad", "Natural"}
every_rule = pytest.mark.parametrize("name", ALL)
every_size = pytest.mark.parametrize("size", SIZES)


def state_of(rule):
    return rule.state_dict() if hasattr(rule, "state_dict") else {}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_obeys_the_one_law(rule):
    call = rule.__call__ if inspect.isclass(rule) else rule
    positional = [p for p in inspect.signature(call).parameters.values() if p.name != "self"]
    assert [p.kind for p in positional[:2]] == [inspect.Parameter.POSITIONAL_ONLY] * 2
    tuning = list(inspect.signature(rule).parameters.values()) if inspect.isclass(rule) else positional[2:]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in tuning)
    assert all(p.default is not inspect.Parameter.empty for p in tuning)
    assert not inspect.isclass(rule) or {"state_dict", "load_state_dict"} <= set(dir(rule))


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_takes_the_wrapped_rule_first(wrapper):
    first, *rest = inspect.signature(wrapper).parameters.values()
    assert first.kind is inspect.Parameter.POSITIONAL_ONLY
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in rest)
    assert {"state_dict", "load_state_dict"} <= set(dir(wrapper))


@every_rule
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mean_and_sent_are_named_shaped_and_typed_as_the_gradients(name, dtype):
    grads = bucket(0, dtype=dtype)
    for part in make(name)(grads, Comm()):
        assert {n: (t.shape, t.dtype) for n, t in part.items()} == {
            n: (t.shape, t.dtype) for n, t in grads.items()
        }
        assert all(t.isfinite().all() for t in part.values())


@every_rule
def test_what_comes_in_is_not_changed_whatever_its_strides(name):
    grads = bucket(1)
    grads["conv"] = grads["conv"].to(memory_format=torch.channels_last)
    grads["wide"] = grads["wide"].t()
    before = {n: t.clone() for n, t in grads.items()}
    strided, rule = make(name), make(name)
    for _ in range(2):
        got = strided(grads, Comm())
        want = rule({n: t.contiguous() for n, t in grads.items()}, Comm())
        torch.testing.assert_close(got.mean, want.mean)
        assert same(grads, before)


@every_rule
@pytest.mark.parametrize("resumed", [False, True])
def test_a_rule_never_waits_for_the_device(name, resumed):
    rule, before = make(name), make(name)
    before(bucket(0), Comm())
    if resumed and hasattr(rule, "load_state_dict"):
        rule.load_state_dict(state_of(before))  # on the CPU, as it comes from a file
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(2):
            grads = {n: torch.empty(shape, device="cuda") for n, shape in SHAPES.items()}
            for part in rule(grads, Comm()):
                assert {n: (t.shape, t.device.type) for n, t in part.items()} == {
                    n: (torch.Size(shape), "cuda") for n, shape in SHAPES.items()
                }


@every_rule
def test_the_global_random_numbers_are_left_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make(name)(bucket(2), Comm())
    assert torch.equal(before, torch.get_rng_state())


@every_rule
@every_size
def test_the_mean_is_the_same_on_all_workers_and_the_mean_of_what_each_sent(name, size):
    rules = [make(name) for _ in range(size)]
    for step in range(3):
        got = together(rules, [bucket(10 * step + rank) for rank in range(size)])
        for n in SHAPES:
            sent = torch.stack([averaged.sent[n].double() for averaged in got]).mean(0)
            torch.testing.assert_close(got[0].mean[n].double(), sent, atol=1e-5, rtol=1e-5)
        assert all(same(got[0].mean, averaged.mean) for averaged in got)


# What LocalClip clips off depends on the number of workers, as its own test says.
STEADY = [name for name in ALL if name.split("+")[-1] not in AT_RANDOM and "Clip" not in name]
PLAIN = [name for name in STEADY if name in RULES or name.startswith("ErrorFeedback")]
WORKERS = [(name, size, dtype) for name in PLAIN for size in SIZES for dtype in DTYPES]
WORKERS += [(n, 3, dtype) for n in {*STEADY} - {*PLAIN} for dtype in DTYPES[1:3]]


@pytest.mark.parametrize(("name", "size", "dtype"), sorted(WORKERS, key=str), ids=str)
def test_equal_gradients_on_any_number_of_workers_are_as_one_worker(name, size, dtype):
    grads = bucket(4, dtype=dtype)
    one = make(name)(grads, Comm()).mean
    many = together([make(name) for _ in range(size)], [grads] * size)[0].mean
    half = dtype in (torch.float16, torch.bfloat16)
    for n in SHAPES:
        close = {"atol": 3e-2, "rtol": 3e-2} if half else {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(many[n], one[n], **close)


@every_rule
def test_zero_gradients_give_zeros_and_break_nothing(name):
    rule = make(name)
    zeros = {n: torch.zeros(shape) for n, shape in SHAPES.items()}
    for _ in range(2):
        assert all((t == 0).all() for part in rule(zeros, Comm()) for t in part.values())
    mean = rule(bucket(5), Comm()).mean
    assert all(t.isfinite().all() and (t.numel() == 0 or t.any()) for t in mean.values())


@every_rule
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("place", ["conv", "wide", "bias"])
def test_what_is_not_finite_on_one_worker_is_seen_by_all(name, bad, place):
    rules = [make(name) for _ in range(3)]
    grads = [bucket(rank) for rank in range(3)]
    grads[1][place].view(-1)[4] = bad
    for averaged in together(rules, grads):
        assert not averaged.mean[place].isfinite().all()


@every_rule
def test_a_bad_step_leaves_no_trace(name):
    def run(steps):
        rules = [make(name) for _ in range(2)]
        for step in steps:
            grads = [bucket(step), bucket(50 + step)]
            if step == 99:
                grads[0] = {n: torch.full_like(t, torch.inf) for n, t in grads[0].items()}
            got = together(rules, grads)
        return [*[averaged.mean for averaged in got], *[averaged.sent for averaged in got]]

    for with_bad, without in zip(run([1, 99, 2, 3]), run([1, 2, 3]), strict=True):
        assert same(with_bad, without)


@every_rule
def test_a_resumed_run_goes_on_bit_for_bit(name):
    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        return isinstance(value, torch.Tensor | str | int | float | bool | None)

    went_on, resumed = make(name), make(name)
    for step in range(3):
        went_on(bucket(step), Comm())
    assert plain(state_of(went_on))
    if hasattr(resumed, "load_state_dict"):
        resumed.load_state_dict(state_of(went_on))
    for step in range(3, 6):
        assert same(went_on(bucket(step), Comm()).mean, resumed(bucket(step), Comm()).mean)


@every_rule
def test_a_kept_state_does_not_change_with_the_steps_that_follow(name):
    rule = make(name)
    rule(bucket(0), Comm())
    state = state_of(rule)
    before = repr(state)
    rule(bucket(1), Comm())
    assert repr(state) == before


@every_rule
def test_how_gradients_are_put_into_buckets_does_not_matter(name):
    whole, parted = make(name), make(name)
    for step in range(3):
        grads = bucket(step)
        want = whole(grads, Comm()).mean
        got = {}
        for n in sorted(grads, reverse=step == 1):  # another layout at the second step
            got |= parted({n: grads[n]}, Comm()).mean
        assert same(got, want)


@pytest.mark.parametrize("name", FED)
@settings(max_examples=20)
@given(seed=st.integers(0, 999), size=st.sampled_from(SIZES), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_nothing_is_lost_with_error_feedback(name, seed, size, scale):
    rules = [make(name) for _ in range(size)]
    before = {n: torch.zeros(shape, dtype=torch.float64) for n, shape in SHAPES.items()}
    for step in range(3):
        grads = [bucket(seed + 100 * step + rank, scale=scale) for rank in range(size)]
        got = together(rules, grads)
        kept = [rule.state_dict()["residuals"] for rule in rules]
        after = {n: torch.stack([k[n].double() for k in kept]).mean(0) for n in SHAPES}
        for n in SHAPES:
            given_in = torch.stack([g[n].double() for g in grads]).mean(0)
            torch.testing.assert_close(
                given_in + before[n], got[0].mean[n].double() + after[n], atol=1e-5 * scale, rtol=1e-5
            )
        before = after


def test_a_wrapped_rule_prints_its_settings():
    assert repr(ErrorFeedback(RULES["TopK"](density=0.5))) == "ErrorFeedback(TopK(density=0.5))"
