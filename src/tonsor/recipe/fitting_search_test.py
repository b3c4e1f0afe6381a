import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.recipe.fitting_maker import Point
from tonsor.recipe.fitting_rows import frontier
from tonsor.recipe.fitting_search import between, coarse, search


@given(low=st.floats(0, 0.98), more=st.floats(0, 1))
@settings(max_examples=40)
def test_the_grid_lies_in_its_range_and_begins_at_its_low_end(low, more):
    high = low + (0.99 - low) * more
    found = [point.sparsity for point in coarse(0.5, (low, high))]
    assert found == sorted(set(found))
    assert found[0] == pytest.approx(low, abs=1e-4)
    assert found[-1] <= high + 1e-4


@pytest.mark.parametrize("best", [0.2, 0.62, 0.97])
def test_a_search_comes_near_the_best_sparsity_and_tries_nothing_twice(best):
    tried = []

    def try_(point):
        tried.append(point)
        return {"off": abs((1 - point.sparsity) / (1 - best) - 1)}

    done = search([1.0], lambda share: (0.0, 0.99) if share == 1 else None, try_, lambda row: (row["off"],))
    assert min(row["off"] for row in done.values()) < 0.12
    assert len(tried) == len(set(tried)) <= 12


def test_a_search_goes_to_widths_between_with_as_many_weights_and_below():
    done = search(
        [1.0, 0.5],
        lambda share: (0.5, 0.5) if share == 1 else (0.0, 0.9),
        lambda point: {"off": abs(point.share - 0.25)},
        lambda row: (row["off"],),
    )
    shares = sorted({point.share for point in done})
    assert shares[0] < 0.4
    assert all(0.0 <= point.sparsity <= 0.9 for point in done)
    [point, *_] = between(Point(0.5, 0.0), [Point(0.5, 0.0)], [0.5, 1.0], lambda share: (0.0, 0.9))[::-1]
    assert (point.share, point.sparsity) == (0.707, 0.2928)  # of 0.707 as many stay as of 0.5 in all


def test_widths_that_cannot_keep_the_budget_are_not_tried_and_more_zeros_not_after_enough():
    tried = []

    def try_(point):
        tried.append(point)
        return {"off": point.sparsity}

    ranges = {1.0: None, 0.5: (0.0, 0.99)}
    search([1.0, 0.5], ranges.get, try_, lambda row: (row["off"],), is_enough=lambda row: row["off"] > 0.7)
    assert tried[:2] == [Point(0.5, 0.0), Point(0.5, 0.7846)]
    assert all(point.share == 0.5 and point.sparsity < 0.8 for point in tried)
    assert search([1.0], ranges.get, try_, lambda row: (0.0,)) == {}


def test_no_more_candidates_than_asked_for():
    done = search([1.0, 0.5], lambda share: (0.0, 0.99), lambda point: {}, lambda row: (0.0,), most=6)
    assert len(done) == 6


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5)), max_size=10)


@given(drawn=rows)
@settings(max_examples=50)
def test_a_row_is_on_the_frontier_unless_another_is_as_good_in_all_and_better_in_one(drawn):
    named = [{"name": i, "metric": m, "bytes": b, "latency_ms": t} for i, (m, b, t) in enumerate(drawn)]
    expected = {
        i
        for i, (m, b, t) in enumerate(drawn)
        if not any(n >= m and c <= b and u <= t and (n, c, u) != (m, b, t) for n, c, u in drawn)
    }
    assert set(frontier(named, ["bytes", "latency_ms"])) == expected
