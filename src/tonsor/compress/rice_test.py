import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress.rice import high_bits, rice_decode, rice_encode, rice_low_bits


def by_the_book(places, low):
    """Return Rice's code of the gaps, one after the other, as strings: high part, stop, low part."""
    before, code = -1, []
    for place in places:
        gap, before = place - before - 1, place
        code.append(("0" * (gap >> low) + "1", format(gap & ((1 << low) - 1), f"0{low}b") if low else ""))
    return code


@settings(max_examples=50)
@given(places=st.sets(st.integers(0, 5000), max_size=300), low=st.integers(0, 13), spare=st.integers(0, 9))
def test_the_code_is_that_of_the_book_and_comes_back(places, low, spare):
    places = sorted(places)
    code = by_the_book(places, low)
    highs = "".join(high for high, _ in code)
    got_lows, got_highs = rice_encode(torch.tensor(places, dtype=torch.int64), low, len(highs) + spare)
    assert "".join(map(str, got_highs.tolist())) == highs + "0" * spare
    planes = got_lows.view(low, len(places)).flip(0).t().tolist() if places else []
    assert ["".join(map(str, bits)) for bits in planes] == [bits for _, bits in code]
    assert rice_decode(got_lows, got_highs, len(places)).tolist() == places


@settings(max_examples=50)
@given(numel=st.integers(1, 10**9), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_any_places_find_room_and_no_other_parameter_needs_less(numel, share, seed):
    count = max(1, min(int(share**6 * numel), 300))
    ends = np.random.default_rng(seed).choice(numel, count) if seed % 3 else np.arange(numel - count, numel)
    places = torch.from_numpy(np.unique(ends)).to(torch.int64)
    count = places.numel()
    low = rice_low_bits(numel, count)
    lows, highs = rice_encode(places, low, high_bits(numel, count, low))
    assert torch.equal(rice_decode(lows, highs, count), places)
    room = [count * other + high_bits(numel, count, other) for other in range(40)]
    assert lows.numel() + highs.numel() == min(room)


@pytest.mark.parametrize("density", [0.1, 0.03, 0.01, 0.001])
def test_a_place_takes_at_most_six_tenths_of_a_bit_more_than_its_entropy(density):
    numel, count = 4_000_000, round(4_000_000 * density)
    low = rice_low_bits(numel, count)
    entropy = -math.log2(density) - (1 - density) / density * math.log2(1 - density)
    assert low + high_bits(numel, count, low) / count < entropy + 0.6


def test_a_code_with_too_few_ends_is_refused():
    with pytest.raises(ValueError, match="2 places have 1 ends; the code was damaged"):
        rice_decode(torch.zeros(0, dtype=torch.uint8), torch.tensor([0, 1, 0]), 2)
