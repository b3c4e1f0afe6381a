import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.flat import PROBE, alike, flat_views


def cut(buffer, sizes):
    """Return slices of the buffer side by side; a size below 0 leaves a gap."""
    found, start = [], 0
    for size in sizes:
        if size > 0:
            found.append(buffer[start : start + size])
        start += abs(size)
    return found


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(-3, 5).filter(bool), min_size=1, max_size=20), seed=st.integers(0, 9))
def test_the_views_hold_every_element_once_whatever_the_order_and_the_gaps(sizes, seed):
    buffer = torch.arange(float(sum(map(abs, sizes))))
    parts = cut(buffer, sizes)
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed)).tolist()
    views = flat_views([parts[i] for i in order])
    runs = "".join("x" if size > 0 else " " for size in sizes).split()
    assert len(views) == len(runs)
    want = sorted(x for part in parts for x in part.tolist())
    assert sorted(x for view in views for x in view.tolist()) == want
    for view in views:
        view.zero_()
    assert all((part == 0).all() for part in parts)
    assert buffer.count_nonzero() == sum(-size for size in sizes if size < 0) - (sizes[0] < 0)


def test_tensors_of_their_own_are_returned_as_they_are():
    given = [torch.zeros(3), torch.zeros(2, 2), torch.empty(0), torch.zeros(())]
    assert [id(t) for t in flat_views(given)] == [id(t) for t in given]


def test_a_long_list_is_searched_where_its_first_tensors_are_neighbours():
    buffer = torch.zeros(1000)
    assert len(flat_views(buffer.split(1))) == 1
    apart = [torch.zeros(1) for _ in range(PROBE)]
    assert len(flat_views([*buffer.split(1), *apart])) == 1 + PROBE
    assert len(flat_views([*apart, *buffer.split(1)])) == PROBE + 1000


@pytest.mark.parametrize("order", [1, -1])
def test_a_bucket_is_one_view_from_either_end(order):
    buffer = torch.arange(12.0)
    parts = [buffer[:4].view(2, 2), buffer[4:9], buffer[9:12].view(3, 1)][::order]
    assert [view.tolist() for view in flat_views(parts)] == [buffer.tolist()]


def test_runs_stand_in_the_order_of_their_first_tensors():
    low, high = sorted((torch.zeros(4), torch.zeros(4)), key=torch.Tensor.data_ptr)
    for first, second in ((low, high), (high, low)):
        views = flat_views([first[2:], second[:2], second[2:], first[:2]])
        assert [view.data_ptr() for view in views] == [first.data_ptr(), second.data_ptr()]


def test_neighbours_that_are_no_vector_together_stay_apart():
    buffer = torch.arange(8.0)
    turned = [buffer[:4].view(2, 2).t(), buffer[4:]]
    striding = [buffer[0:4:2], buffer[2:6:2]]  # each starts where the bytes of the other would end
    retyped = [buffer[:4], buffer[4:].view(torch.int32)]
    for parts in (turned, striding, retyped):
        assert {id(t) for t in flat_views(parts)} == {id(t) for t in parts}


def test_one_tensor_given_twice_is_still_given_twice():
    part = torch.ones(3)
    assert len(flat_views([part, part])) == 2


def test_no_view_reaches_beyond_its_storage():
    buffer = torch.arange(6.0)
    left = torch.tensor([]).set_(buffer.untyped_storage()[:12], 0, (3,), (1,))
    views = flat_views([left, buffer[3:]])
    assert sum(view.numel() for view in views) == 6


def test_tensors_are_sorted_by_type():
    half, single = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(2)
    assert sorted(len(same) for same in alike([half, single, half])) == [1, 2]
