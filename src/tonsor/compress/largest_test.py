import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import largest as room
from tonsor.compress.largest import _at_once, _by_counting, first_marked, largest

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def by_sorting(values, count):
    """Return the places by a stable sort in float64; what is not a number comes first."""
    size = values.double().abs().nan_to_num(nan=np.inf).numpy()
    size = np.stack([values.double().isnan().numpy(), size])
    order = np.lexsort((np.arange(size.shape[1]), -size[1], -size[0]))
    return np.sort(order[:count])


@settings(max_examples=50)
@given(
    length=st.integers(0, 3000),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
    levels=st.sampled_from([1, 2, 50, 10**6]),
    dtype=st.sampled_from(DTYPES),
    odd=st.booleans(),
)
def test_what_is_found_is_what_a_stable_sort_finds(length, share, seed, levels, dtype, odd):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-levels, levels + 1, (length,), generator=generator).to(dtype)  # few: many ties
    if odd and length:
        values[seed % length], values[seed % 7 % length] = torch.inf, torch.nan
    count = round(share * length)
    want = by_sorting(values, count).tolist()
    assert largest(values, count).tolist() == want
    assert _at_once(values.abs().view(room.KEYS[values.element_size()]), count).tolist() == want


@pytest.mark.parametrize("count", [1, 7, 400, 2000, 30_000, 39_999])
@pytest.mark.parametrize("kind", ["normal", "zeros", "steps", "few", "rising", "hidden", "bad"])
def test_the_search_by_sample_and_tiles_finds_what_a_stable_sort_finds(monkeypatch, kind, count):
    monkeypatch.setattr(room, "TILE", 1000)
    monkeypatch.setattr(room, "SAMPLE", 512)
    values = torch.randn(40_000, generator=torch.Generator().manual_seed(count))
    if kind == "zeros":
        values = torch.zeros_like(values)
    elif kind == "steps":
        values = values.round()
    elif kind == "few":  # as an embedding's gradient: fewer elements than wanted are not zero
        values[150:] = 0
    elif kind == "rising":
        values = torch.arange(40_000.0)
    elif kind == "hidden":  # the sample sees none of the large ones
        values[values.abs() < 3] = 1e-30
    elif kind == "bad":
        values[::9], values[5::13] = torch.nan, -torch.inf
    assert largest(values, count).tolist() == by_sorting(values, count).tolist()


@pytest.mark.parametrize(
    "values", [torch.full((300_000,), -0.5), torch.zeros(300_000)], ids=["equal", "zero"]
)
def test_equal_magnitudes_are_found_in_the_exact_number_the_first_in_position_first(values):
    values[::2] *= -1
    for count in (1, 300, 150_000, 299_999, 300_000):
        assert torch.equal(largest(values, count), torch.arange(count))


def test_elements_of_any_stride_are_numbered_in_their_own_order():
    values = torch.tensor([[1.0, 9.0], [8.0, 2.0], [7.0, 3.0]]).t().reshape(-1)[::2]
    assert values.tolist() == [1.0, 7.0, 2.0]
    assert largest(values, 1).tolist() == [1]


def test_the_first_marks_are_the_same_with_and_without_a_look_at_them():
    marks = torch.tensor([True, False, True, True, False, True])
    for count in range(5):
        places = marks.nonzero().view(-1)[:count]
        assert torch.equal(first_marked(marks, count), places)
        assert torch.equal(_by_counting(marks, count), places)
