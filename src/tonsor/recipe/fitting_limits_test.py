import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.recipe.fitting_limits import Budget, read_bytes

ROW = {"bytes": 1000, "latency_ms": 2.0, "fall": 0.4}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("40000", 40_000),
        ("40k", 40_000),
        ("40 KB", 40_000),
        ("40KiB", 40_960),
        ("40kib", 40_960),
        ("1.5M", 1_500_000),
        ("0.5 MiB", 524_288),
        ("2G", 2_000_000_000),
        ("123B", 123),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "k", "0", "-5k", "40 kilo", "40kk", "1e400", "nan", "inf", "0.5", "४k"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"--bytes must be a number of bytes such as 40000, 40k"):
        read_bytes(text)


@given(number=st.integers(1, 10**6), unit=st.sampled_from(["", "k", "M", "Ki", "Mi"]), b=st.booleans())
@settings(max_examples=30)
def test_a_whole_number_of_units_is_exact(number, unit, b):
    factor = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20}[unit]
    assert read_bytes(f"{number}{unit}{'B' if b else ''}") == number * factor


@pytest.mark.parametrize("limits", [{}, {"max_bytes": 0}, {"latency_ms": 0}, {"max_fall": -0.1}])
def test_a_budget_of_nothing_is_refused(limits):
    with pytest.raises(ValueError, match="fit: "):
        Budget(**limits)


def test_every_limit_is_looked_at_and_its_bound_is_allowed():
    assert Budget(max_bytes=1000, latency_ms=2.0, max_fall=0.4).meets(ROW)
    missed = Budget(max_bytes=999, latency_ms=1.9, max_fall=0.3).misses(ROW)
    assert missed == ["1,000 bytes of 999", "2 ms of 1.9", "metric down by 0.40 points of 0.3"]


def test_the_smallest_file_wins_where_the_fall_is_limited_and_else_the_best_metric():
    small, good = ROW | {"bytes": 500}, ROW | {"fall": 0.1}
    fall, size = Budget(max_fall=0.5), Budget(max_bytes=1000)
    assert min([small, good], key=fall.rank) is small
    assert min([small, good], key=size.rank) is good


def test_what_keeps_the_budget_comes_before_what_does_not_and_then_the_nearest():
    budget = Budget(max_bytes=400, max_fall=0.5)
    far, near, keeps = ROW | {"bytes": 900}, ROW | {"bytes": 500}, ROW | {"bytes": 400, "fall": 0.5}
    assert sorted([far, near, keeps], key=budget.rank) == [keeps, near, far]
