import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress.draws import Draws, Streams

COUNT = 1 << 16


def drawn(draws, count=COUNT, start=0):
    out = torch.empty(count, dtype=torch.int32)
    draws.bits_(out, start)
    return out


def numbers(seed, step):
    return drawn(Draws(seed, torch.tensor(step))).double() / 2**32


@settings(max_examples=30)
@given(seed=st.integers(-(2**70), 2**70), step=st.integers(0, 2**40))
def test_numbers_are_even_and_independent_of_their_neighbours_steps_and_seeds(seed, step):
    u = numbers(seed, step)
    assert abs(u.mean()) < 6 * (1 / 12 / COUNT) ** 0.5
    counts = torch.bincount(((u + 0.5) * 256).long(), minlength=256).double()
    assert ((counts - 256).square() / 256).sum() < 255 + 7 * (2 * 255) ** 0.5  # chi-squared
    others = [u.roll(1), u.roll(256), u.roll(4096), numbers(seed, step + 1), numbers(seed + 1, step)]
    for other in others:
        assert abs((u * other).mean() * 12) < 6 / COUNT**0.5


@settings(max_examples=20)
@given(start=st.integers(0, 2**33), count=st.integers(1, 300))
def test_a_place_has_its_number_wherever_the_piece_begins(start, count):
    draws = Draws(5, torch.tensor(3))
    whole = drawn(draws, 400, start)
    assert torch.equal(drawn(draws, count, start + 400 - count), whole[400 - count :])


def test_every_bit_is_a_fair_coin_and_no_two_go_together():
    bits = drawn(Draws(1, torch.tensor(1)))
    coins = torch.stack([(bits >> bit) & 1 for bit in range(32)]).double() - 0.5
    even = coins.mean(1).abs() * 2 * COUNT**0.5
    together = (coins @ coins.t()).div_(COUNT / 4).fill_diagonal_(0).abs() * COUNT**0.5
    assert even.max() < 6
    assert together.max() < 6


@pytest.mark.parametrize("other", [("v", "mean", 0), ("w", "1 for 2", 0), ("w", "mean", 1)])
def test_names_parts_and_seeds_have_streams_of_their_own(other):
    name, part, seed = other
    a = drawn(Streams(0).draws("w", "mean", torch.device("cpu")))
    b = drawn(Streams(seed).draws(name, part, torch.device("cpu")))
    assert torch.equal(a, drawn(Streams(0).draws("w", "mean", torch.device("cpu"))))
    assert abs((a / 2.0**32 * (b / 2.0**32)).double().mean() * 12) < 6 / COUNT**0.5
