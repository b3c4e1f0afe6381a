import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress.levels import WIDTHS, from_levels, level_bytes, to_levels

every_width = pytest.mark.parametrize("bits", WIDTHS)


def there_and_back(values, bits, counts=None):
    counts = [values.numel()] if counts is None else counts
    codes, scales, extras = to_levels(values, counts, bits)
    assert codes.min() >= 0
    assert codes.max() < 2**bits
    assert scales.nbytes + extras.nbytes == len(counts) * level_bytes(values.dtype, bits)
    return from_levels(codes, counts, scales, extras, bits)


def by_hand(values, bits):
    """Return the nearest the definition allows, in float64: parts of equal ratio, their middle or mean."""
    values = values.double().numpy()
    sizes = np.abs(values)
    top, levels = sizes.max(), 2 ** (bits - 1)
    shares = sizes / top if top else sizes
    shares[shares > 0] = np.maximum(shares[shares > 0], 2.0**-16)
    zeros = bool((shares == 0).any())
    least = np.float16(shares[shares > 0].min(initial=1)).astype(float)
    edges = np.exp2(np.log2(least) * np.arange(levels - zeros, -1, -1) / (levels - zeros))
    number = np.clip(np.searchsorted(edges, shares, side="right") - 1, 0, levels - zeros - 1)
    out = np.zeros_like(shares)
    for level in set(number[shares > 0].tolist()):
        fell = (number == level) & (shares > 0)
        is_mean = bits <= 3
        out[fell] = shares[fell].mean() if is_mean else np.sqrt(edges[level] * edges[level + 1])
    return np.sign(values) * out * top


@settings(max_examples=50)
@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 200),
    bits=st.sampled_from([2, 3, 4, 5, 8]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    has_zeros=st.booleans(),
)
def test_values_come_back_as_the_definition_says(seed, count, bits, scale, has_zeros):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator, dtype=torch.float64).pow(3) * scale
    if has_zeros:
        values[seed % count :: 3] = 0
    got = there_and_back(values, bits).numpy()
    want = by_hand(values, bits)
    close = np.isclose(got, want, rtol=2e-3, atol=0)  # levels travel in half precision
    assert close.mean() > 0.98 or (~close).sum() <= 1  # a value on an edge may fall to either side
    assert np.array_equal(np.sign(got), np.sign(values.numpy()))


@every_width
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_constant_comes_back_as_it_is(bits, dtype):
    for value in (0.1, -3.0, 6e4, 1e-6):
        values = torch.full((9,), value, dtype=dtype)
        got = there_and_back(values, bits)
        assert got.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.equal(got, values.to(got.dtype))


@every_width
def test_zeros_stay_zero_and_signs_stay(bits):
    values = torch.tensor([0.0, -3.0, 0.0, 2.9, -3e-9])
    got = there_and_back(values, bits)
    assert torch.equal(got.sign()[:4], values.sign()[:4])
    assert not there_and_back(torch.zeros(5), bits).any()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_what_is_tiny_beside_the_largest_counts_as_the_smallest_that_is_told_apart(bits):
    values = torch.tensor([1.0, -1e-12, 1e-9])  # half precision would make zeros of the last two
    got = there_and_back(values, bits)
    want = torch.tensor([-1.0, 1.0]) * 2.0 ** (-16 if bits <= 3 else -16 + 8 / 2 ** (bits - 1))
    torch.testing.assert_close(got[1:], want, rtol=1e-4, atol=0)


@every_width
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_nothing_comes_back_finite_where_one_value_is_not(bits, bad):
    values = torch.tensor([1.0, bad, -2.0, 0.0])
    assert not there_and_back(values, bits).isfinite().any()


@every_width
def test_the_range_of_the_type_neither_overflows_nor_vanishes(bits):
    for value in (torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny):
        values = torch.tensor([value, -value / 2])
        got = there_and_back(values, bits)
        torch.testing.assert_close(got, values, rtol=0.5, atol=0)


@pytest.mark.parametrize("bits", [2, 3])
def test_the_mean_magnitude_is_kept_where_the_levels_are_means(bits):
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).abs()
    torch.testing.assert_close(there_and_back(values, bits).mean(), values.mean(), rtol=1e-3, atol=0)


@every_width
def test_each_tensor_has_levels_of_its_own(bits):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(count, generator=generator) * 10.0**count for count in (3, 0, 1, 8)]
    parts[2].zero_()
    counts = [part.numel() for part in parts]
    want = torch.cat([there_and_back(part, bits) for part in parts if part.numel()])
    assert torch.equal(there_and_back(torch.cat(parts), bits, counts), want)
