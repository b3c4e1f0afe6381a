"""Every way of sharing a sparsity out, against all choices there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.prune.allocation import STEP, least_loss, most_removed, risen, same_rise
from tonsor.prune.knapsack import BINS, least_cost, most_gain

options = st.lists(st.tuples(st.floats(-1, 3), st.floats(0, 10)), min_size=1, max_size=4)


def wavy(seed, weights=3, rising=False):
    """Return curves and sizes drawn by chance; curves that rise and fall unless told otherwise."""
    chance = np.random.default_rng(seed)
    curves, sizes = {}, {}
    for name in "abcdef"[:weights]:
        tried = np.sort(chance.choice(np.arange(0.05, 0.96, 0.05), 4, replace=False)).round(6)
        rise = np.cumsum(chance.exponential(0.2, 4)) if rising else chance.normal(0.3, 0.4, 4)
        curves[name] = [(0.0, 0.0), *zip(tried.tolist(), rise.tolist(), strict=True)]
        sizes[name] = int(chance.integers(1, 1000))
    return curves, sizes


def removed(found, sizes):
    return sum(sizes[name] * sparsity for name, sparsity in found.items())


def predicted(found, curves):
    return sum(risen(curves[name], sparsity) for name, sparsity in found.items())


def every_choice(curves, sizes):
    """Return rise and removed elements of all combinations of whole hundredths and measured sparsities."""
    rises, gains = np.zeros(1), np.zeros(1)
    for name, curve in curves.items():
        tried = np.union1d([s for s, _ in curve], np.arange(0, curve[-1][0], STEP))
        level = [max(rise for _, rise in curve[: place + 1]) for place in range(len(curve))]
        own = np.interp(tried, [s for s, _ in curve], level)
        rises = np.add.outer(rises, own).ravel()
        gains = np.add.outer(gains, tried * sizes[name]).ravel()
    return rises, gains


def test_a_dip_is_no_gain():
    assert risen([(0.0, 0.0), (0.5, -1.0), (0.9, 2.0)], 0.5) == 0.0
    assert risen([(0.0, 0.0), (0.5, 1.0), (0.9, 0.5)], 0.95) == 1.0


@given(things=st.lists(options, min_size=1, max_size=4), budget=st.floats(-3, 6))
@settings(max_examples=50)
def test_the_knapsack_is_within_its_budget_and_as_good_as_any_choice_a_hair_below(things, budget):
    costs = [np.array([cost for cost, _ in thing]) for thing in things]
    gains = [np.array([gain for _, gain in thing]) for thing in things]
    places = most_gain(costs, gains, budget)
    least = sum(cost.min() for cost in costs)
    if places is None:
        assert least > budget
        return
    hair = len(things) * (budget - least) / BINS + 1e-9
    spent = sum(cost[place] for cost, place in zip(costs, places, strict=True))
    got = sum(gain[place] for gain, place in zip(gains, places, strict=True))
    assert spent <= budget + 1e-9
    best = [sum(g for _, g in c) for c in itertools.product(*things) if sum(x for x, _ in c) <= budget - hair]
    assert got >= max(best, default=0.0) - 1e-9


@given(things=st.lists(options, min_size=1, max_size=4), target=st.floats(0.01, 20))
@settings(max_examples=50)
def test_the_target_is_reached_and_no_choice_a_hair_above_costs_less(things, target):
    costs = [np.array([cost for cost, _ in thing]) for thing in things]
    gains = [np.array([gain for _, gain in thing]) for thing in things]
    places = least_cost(costs, gains, target)
    hair = len(things) * target / BINS + 1e-9
    good = [sum(x for x, _ in c) for c in itertools.product(*things) if sum(g for _, g in c) >= target + hair]
    if places is None:
        assert not good
        return
    assert sum(gain[place] for gain, place in zip(gains, places, strict=True)) >= target - 1e-6
    spent = sum(cost[place] for cost, place in zip(costs, places, strict=True))
    assert spent <= min(good, default=np.inf) + 1e-9


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [0.0, 0.05, 0.3, 1.0])
def test_most_removed_holds_the_bound_and_is_as_good_as_brute_force(seed, budget):
    curves, sizes = wavy(seed)
    found = most_removed(curves, sizes, budget)
    rises, gains = every_choice(curves, sizes)
    assert predicted(found, curves) <= budget + 1e-9
    hair = len(curves) * budget / BINS
    assert removed(found, sizes) >= gains[rises <= budget - hair].max() - 1e-6
    assert removed(found, sizes) <= gains[rises <= budget + 1e-9].max() + 1e-6


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5])
def test_least_loss_removes_just_the_share_and_is_as_good_as_brute_force(seed, sparsity):
    curves, sizes = wavy(seed)
    target = sparsity * sum(sizes.values())
    found = least_loss(curves, sizes, sparsity)
    rises, gains = every_choice(curves, sizes)
    assert removed(found, sizes) == pytest.approx(target)
    assert all(0 <= found[name] <= curves[name][-1][0] + 1e-9 for name in curves)
    assert predicted(found, curves) <= rises[gains >= target * (1 + 3 / BINS)].min() + 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_where_curves_rise_the_loss_may_be_bounded_or_the_sparsity_asked_and_both_agree(seed):
    curves, sizes = wavy(seed, weights=5, rising=True)
    by_loss = most_removed(curves, sizes, 0.4)
    share = removed(by_loss, sizes) / sum(sizes.values())
    by_share = least_loss(curves, sizes, share)
    assert predicted(by_share, curves) == pytest.approx(predicted(by_loss, curves), rel=0.05)


def test_a_hundred_weights_are_shared_out_within_the_bound():
    curves, sizes = {}, {}
    for number in range(100):
        own, size = wavy(number, weights=1, rising=True)
        curves[str(number)], sizes[str(number)] = own["a"], size["a"]
    found = most_removed(curves, sizes, 2.0)
    uniform = max(
        s
        for s in np.arange(0, 0.9, 0.01)
        if predicted({n: min(s, c[-1][0]) for n, c in curves.items()}, curves) <= 2.0
    )
    assert predicted(found, curves) <= 2.0
    assert removed(found, sizes) > 1.2 * uniform * sum(sizes.values())


def test_a_bound_that_cannot_be_held_and_a_sparsity_out_of_reach_are_told():
    curves, sizes = {"a": [(0.0, 0.0), (0.5, 1.0)]}, {"a": 10}
    with pytest.raises(ValueError, match="allowed to rise by 0 or more; got -1"):
        most_removed(curves, sizes, -1)
    with pytest.raises(ValueError, match=r"reach a sparsity of 0\.5; got 0\.6"):
        least_loss(curves, sizes, 0.6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_same_rise_removes_just_the_share(seed, sparsity):
    curves, sizes = wavy(seed)
    found = same_rise(curves, sizes, sparsity)
    assert removed(found, sizes) == pytest.approx(sparsity * sum(sizes.values()), rel=1e-6)
    assert all(0 <= s < 1 for s in found.values())


@pytest.mark.parametrize("seed", range(8))
def test_within_the_measured_range_every_weight_raises_the_loss_alike(seed):
    curves, sizes = wavy(seed, rising=True)
    found = same_rise(curves, sizes, 0.2)
    rises = [risen(curves[n], s) for n, s in found.items() if s < curves[n][-1][0] - 1e-6]
    assert rises == pytest.approx([rises[0]] * len(rises), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_higher_sparsity_gives_no_weight_a_lower_one(seed):
    curves, sizes = wavy(seed)
    before = dict.fromkeys(curves, 0.0)
    for sparsity in np.linspace(0.0, 0.99, 34):
        found = same_rise(curves, sizes, float(sparsity))
        assert all(found[name] >= before[name] - 1e-9 for name in curves)
        before = found
