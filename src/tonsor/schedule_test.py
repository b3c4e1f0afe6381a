import inspect
import itertools
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonsor.schedule import SCHEDULES, constant, cubic, exponential, stairs

RAMPS = {name: rule for name, rule in SCHEDULES.items() if rule is not constant}
steps = st.integers(0, 1000)
values = st.floats(-10, 10, allow_nan=False)


@pytest.mark.parametrize("rule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_obeys_the_one_law(rule):
    first, *rest = inspect.signature(rule).parameters.values()
    assert first.kind is inspect.Parameter.POSITIONAL_ONLY
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in rest)


@pytest.mark.parametrize("rule", RAMPS.values(), ids=RAMPS)
@given(initial=values, final=values, start=steps, length=steps, step=steps)
def test_a_ramp_is_exact_at_its_ends_and_bounded_between(rule, initial, final, start, length, step):
    if rule is exponential:  # a sparsity
        initial, final = min(initial, 1.0), min(final, 1.0)
    ramp = partial(rule, initial=initial, final=final, start=start, stop=start + length)
    assert ramp(start + length) == final
    assert ramp(start + length + 7) == final
    if length:
        assert ramp(start) == initial
    low, high = sorted((initial, final))
    assert low - 1e-9 <= ramp(step) <= high + 1e-9


@pytest.mark.parametrize("rule", RAMPS.values(), ids=RAMPS)
def test_a_ramp_is_monotone(rule):
    got = [rule(step, initial=0.0, final=1.0, start=3, stop=40) for step in range(60)]
    assert got == sorted(got)


def test_cubic_is_the_formula_of_zhu_and_gupta():
    initial, final, start, span, pruning_steps = 0.2, 0.9, 100, 10, 50
    for step in range(start, start + span * pruning_steps + 1, 25):
        paper = final + (initial - final) * (1 - (step - start) / (pruning_steps * span)) ** 3
        got = cubic(step, initial=initial, final=final, start=start, stop=start + span * pruning_steps)
        assert got == pytest.approx(paper, abs=1e-12)


def test_a_ramp_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="start=5, stop=3"):
        cubic(0, start=5, stop=3)


def test_exponential_removes_the_same_share_of_what_is_left_in_each_round():
    density = [1 - exponential(step, initial=0.1, final=0.95, start=2, stop=12) for step in range(2, 13)]
    shares = [1 - after / before for before, after in itertools.pairwise(density)]
    assert shares == pytest.approx([1 - (0.05 / 0.9) ** 0.1] * 10)


def test_exponential_refuses_what_is_no_sparsity():
    with pytest.raises(ValueError, match=r"at most 1; got 0.0 to 90"):
        exponential(0, final=90, stop=3)


def test_stairs_are_of_equal_height_and_width():
    values = [stairs(step, final=0.7, start=5, stop=26, count=7) for step in range(5, 27)]
    assert values == pytest.approx([0.1 * (k // 3) for k in range(22)])
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        stairs(1, stop=5, count=0)
