import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.export.exported import compare, difference


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.floats(-1, 1))
def test_the_difference_is_relative_to_the_largest_output(values, error):
    expected = torch.tensor(values, dtype=torch.float64)
    got = expected.clone()
    got[0] += error
    scale = max(abs(value) for value in values) or 1.0
    by_hand = abs(float(got[0]) - values[0]) / scale
    assert difference([got], [expected]) == pytest.approx(by_hand, abs=1e-15)


def test_another_number_of_outputs_or_another_shape_is_infinitely_far():
    x = torch.ones(2)
    assert difference([x], [x, x]) == difference([x[None]], [x]) == float("inf")


def test_the_worst_output_counts_and_a_nan_is_not_lost():
    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert difference([one, one], [one, two]) == 0.5
    assert difference([torch.tensor([float("nan")]), one], [one, one]) != 0
    assert torch.tensor(difference([torch.tensor([float("nan")]), one], [one, one])).isnan()


def test_nothing_at_all_is_no_difference():
    assert difference([], []) == difference([torch.ones(0)], [torch.ones(0)]) == 0


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.floats(-1, 1))
def test_files_are_compared_over_all_batches_together(batch, more, error):
    x = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    sizes = [batch, batch + more]
    given_ = torch.cat([x.repeat(2, 1)[:size] for size in sizes])
    worst, apart = compare(lambda x: x + error * (x == 1).double(), nn.Identity(), (x,), sizes)
    of_ones = (given_ == 1).sum().double().sqrt() * abs(error)
    assert apart == pytest.approx(float(of_ones / given_.norm()), abs=1e-12)
    assert worst == pytest.approx(abs(error) / min(batch, 5), abs=1e-12)


def test_a_file_with_another_number_of_outputs_is_infinitely_far():
    assert compare(lambda x: (x, x), nn.Identity(), (torch.ones(1, 2),), [1, 2]) == (float("inf"),) * 2


def test_a_nan_in_a_later_batch_is_not_lost():
    def file(x):
        return x * torch.nan if len(x) > 1 else x

    assert all(torch.tensor(compare(file, nn.Identity(), (torch.ones(1, 2),), [1, 2])).isnan())
