"""Losses by class, exemplars and calibration, against counts made by hand and by NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tonsor.report import calibration_error, class_changes, exemplars, wilson


def drawn(count=200, classes=4, seed=0):
    """Return targets, and logits of a good model and of a worse one."""
    chance = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (count,), generator=chance)
    good = torch.eye(classes)[targets] * 2 + torch.randn(count, classes, generator=chance)
    return targets, good, good + torch.randn(count, classes, generator=chance) * 1.5


@given(count=st.integers(1, 500), share=st.floats(0, 1))
@settings(max_examples=50)
def test_wilsons_interval_is_scipys(count, share):
    right = round(share * count)
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson(right, count), (expected.low, expected.high), atol=1e-6)


def test_every_class_is_counted_and_the_one_that_lost_most_stands_first():
    targets, dense, pruned = drawn()
    rows = class_changes(dense, pruned, targets)
    t, a, b = targets.numpy(), dense.argmax(1).numpy(), pruned.argmax(1).numpy()
    overall = (b == t).mean() - (a == t).mean()
    assert sorted(row["class"] for row in rows) == [0, 1, 2, 3]
    assert [row["beyond"] for row in rows] == sorted(row["beyond"] for row in rows)
    for row in rows:
        here = t == row["class"]
        assert row["samples"] == here.sum()
        assert row["dense"]["recall"] == (a == t)[here].mean()
        assert row["pruned"]["recall"] == (b == t)[here].mean()
        assert row["lost"] == ((a == t) & (b != t))[here].sum()
        assert row["gained"] == ((a != t) & (b == t))[here].sum()
        change = (b == t)[here].mean() - (a == t)[here].mean()
        assert row["beyond"] == pytest.approx(change - overall)
        assert row["pruned"]["low"] <= row["pruned"]["recall"] <= row["pruned"]["high"]


def test_a_class_that_no_sample_has_is_left_out():
    assert [
        row["class"] for row in class_changes(torch.eye(5)[[4]], torch.eye(5)[[4]], torch.tensor([4]))
    ] == [4]


def test_exemplars_are_what_only_the_dense_model_gets_right_the_surest_loss_first():
    targets, dense, pruned = drawn()
    found = exemplars(dense, pruned, targets)
    t, a, b = targets.numpy(), dense.argmax(1).numpy(), pruned.argmax(1).numpy()
    assert sorted(found) == np.flatnonzero((a == t) & (b != t)).tolist()
    drop = (dense.softmax(1) - pruned.softmax(1))[torch.arange(200), targets].numpy()
    assert np.all(np.diff(drop[found]) <= 1e-6)
    assert exemplars(dense, dense, targets) == []


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_the_papers_sum_over_bins(bins, seed):
    targets, logits, _ = drawn(seed=seed)
    odds = np.exp(logits.double().numpy())
    odds /= odds.sum(1, keepdims=True)
    sure, right = odds.max(1), odds.argmax(1) == targets.numpy()
    total = 0.0
    for k in range(bins):
        here = (sure > k / bins) & (sure <= (k + 1) / bins)
        if here.any():
            total += here.mean() * abs(right[here].mean() - sure[here].mean())
    assert calibration_error(logits, targets, bins=bins) == pytest.approx(total, abs=1e-9)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    logits = torch.log(torch.tensor([[0.75, 0.25]] * 4))
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(logits, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.75)
