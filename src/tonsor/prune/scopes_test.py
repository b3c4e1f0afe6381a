import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.prune import across, local, n_of_m, per_output
from tonsor.prune.threshold import CHUNK, lowest

values = st.lists(st.integers(-3, 3), min_size=1, max_size=40)
sparsities = st.floats(0, 1, exclude_max=True)
float_types = st.sampled_from([torch.float32, torch.float64])


def sort_oracle(scores, sparsity):
    """Return which scores stay: a stable sort, the first round(sparsity * count) of it go."""
    keep = np.ones(len(scores), bool)
    keep[np.argsort(scores, kind="stable")[: round(sparsity * len(scores))]] = False
    return keep


@given(scores=values, sparsity=sparsities)
@settings(max_examples=50)
def test_local_is_a_stable_sort(scores, sparsity):
    got = local({"w": torch.tensor(scores, dtype=torch.float32)}, sparsity)["w"]
    np.testing.assert_array_equal(got, sort_oracle(scores, sparsity))


@given(
    first=values, second=values, sparsity=sparsities, dtype=st.sampled_from([torch.float32, torch.float64])
)
@settings(max_examples=50)
def test_across_is_one_stable_sort_of_all(first, second, sparsity, dtype):
    units = {"a": torch.tensor(first, dtype=dtype), "b": torch.tensor(second, dtype=dtype)}
    got = across(units, sparsity)
    oracle = sort_oracle(first + second, sparsity)
    np.testing.assert_array_equal(torch.cat([got["a"], got["b"]]), oracle)


@given(rows=st.integers(1, 5), columns=st.integers(1, 9), sparsity=sparsities, seed=st.integers(0, 99))
@settings(max_examples=50)
def test_per_output_is_a_stable_sort_of_each_row(rows, columns, sparsity, seed):
    scores = np.random.default_rng(seed).integers(-3, 4, (rows, columns))
    got = per_output({"w": torch.tensor(scores, dtype=torch.float32)}, sparsity)["w"]
    for row, kept in zip(scores, got, strict=True):
        np.testing.assert_array_equal(kept, sort_oracle(row, sparsity))


@pytest.mark.parametrize("scope", [local, per_output, across])
def test_ten_percent_of_a_constant_weight_is_ten_percent(scope):
    keep = scope({"a": torch.full((30, 10), 0.5), "b": torch.full((7, 10), 0.5)}, 0.1)
    assert sum(int((~k).sum()) for k in keep.values()) == 37


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_counted_threshold_is_the_sorted_one(dtype):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(CHUNK + 7, generator=generator).to(dtype), torch.randn(3, 5).to(dtype)]
    parts[1][0] = torch.tensor([-torch.inf, torch.inf, 0.0, -0.0, 1e-45]).to(dtype)
    joined = torch.cat([part.flatten() for part in parts]).sort().values
    for count in (1, 2, 1000, len(joined) // 2, len(joined) - 1, len(joined)):
        got, rank = lowest(parts, count / len(joined))
        assert got.dtype is dtype
        assert got.item() == joined[count - 1].item()
        assert rank == count - (joined < got).sum()


def test_tensors_of_two_types_are_compared_without_rounding():
    units = {"a": torch.tensor([1.0, 1.0], dtype=torch.bfloat16), "b": torch.tensor([1.001, 0.999])}
    keep = across(units, 0.75)
    assert {name: k.tolist() for name, k in keep.items()} == {"a": [False, False], "b": [True, False]}


def test_the_same_is_chosen_when_torch_must_be_deterministic():
    units = {"w": torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    plain = [scope(units, 0.5)["w"] for scope in (across, per_output, n_of_m)]
    torch.use_deterministic_algorithms(True)
    try:
        strict = [scope(units, 0.5)["w"] for scope in (across, per_output, n_of_m)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(plain, strict, strict=True))


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3, 3), (8,), (5, 10), (2, 3, 2)])
def test_two_of_four_is_exact_in_each_run_along_the_input(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    keep = n_of_m({"w": scores}, 0.5)["w"]
    dim = min(1, len(shape) - 1)
    lines = scores.movedim(dim, -1).reshape(-1, shape[dim]).numpy()
    kept = keep.movedim(dim, -1).reshape(-1, shape[dim]).numpy()
    for line, stays in zip(lines, kept, strict=True):
        for start in range(0, len(line), 4):
            run = slice(start, start + 4)
            assert set(np.flatnonzero(stays[run])) == set(np.argsort(line[run])[-2:])


@pytest.mark.parametrize(
    ("sparsity", "kept"), [(0.0, 4), (0.2, 4), (0.25, 3), (0.49, 3), (0.5, 2), (0.7, 2), (0.75, 1)]
)
def test_n_of_m_follows_a_ramp_in_whole_units(sparsity, kept):
    keep = n_of_m({"w": torch.rand(3, 12)}, sparsity, n=1)["w"]
    assert (keep.view(3, 3, 4).sum(-1) == kept).all()


def test_seven_of_ten_is_not_lost_to_rounding():
    assert n_of_m({"w": torch.rand(1, 10)}, 0.7, n=3, m=10)["w"].sum() == 3


def test_n_of_m_says_how_far_it_goes():
    with pytest.raises(ValueError, match=r"at most 1 - 2/4 = 0\.5; got 0\.6"):
        n_of_m({"w": torch.rand(1, 4)}, 0.6)
    with pytest.raises(ValueError, match="n=5, m=4"):
        n_of_m({"w": torch.rand(1, 4)}, 0.1, n=5)


def test_across_takes_the_least_important_wherever_they_are():
    keep = across({"small": torch.rand(50), "large": torch.rand(50) + 1}, 0.5)
    assert not keep["small"].any()
    assert keep["large"].all()
