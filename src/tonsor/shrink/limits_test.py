import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.shrink import Limits, channel_groups, shrink_
from tonsor.shrink.limits import ROUNDINGS, give_back
from tonsor.shrink.nets_test import Residual, mlp

counts = st.integers(1, 70)


@given(units=counts, least=st.integers(1, 9), multiple=st.integers(1, 16), most=st.floats(0, 1))
@pytest.mark.parametrize("rounding", ROUNDINGS)
@settings(max_examples=50)
def test_what_stays_is_a_multiple_or_all_and_never_below_the_least(rounding, units, least, multiple, most):
    limits = Limits(at_least=least, multiple_of=multiple, rounding=rounding, most=most)
    stay = limits.allowed("a", units)
    assert stay == sorted(stay)  # more sparsity never keeps more
    for kept, count in enumerate(stay):
        assert count == units or count % multiple == 0
        assert count >= min(units, least)
        assert units - count <= most * units + 1e-6
        if rounding == "up":
            assert count >= kept
        assert abs(count - kept) < multiple or count - kept <= max(least, (1 - most) * units + 1) + multiple


def test_a_count_is_rounded_to_the_nearest_multiple_and_not_always_down():
    nearest = Limits(multiple_of=16).allowed("a", 32)
    assert [nearest[kept] for kept in (29, 24, 23, 8)] == [32, 32, 16, 16]
    assert Limits(multiple_of=16, rounding="down").allowed("a", 32)[29] == 16
    assert Limits(multiple_of=16, rounding="up").allowed("a", 32)[17] == 32


@given(seed=st.integers(0, 999), size=st.integers(1, 9), data=st.data())
@settings(max_examples=50)
def test_the_best_of_what_was_removed_comes_back_and_the_worst_of_what_was_kept_goes(seed, size, data):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (size,), generator=generator).float()
    keep = torch.rand(size, generator=generator) < 0.5
    stay = data.draw(st.integers(0, size))
    found = give_back(keep, scores, [stay] * (size + 1))
    rank = sorted(range(size), key=lambda i: (bool(keep[i]), float(scores[i]), i))
    assert found.nonzero().flatten().tolist() == sorted(rank[size - stay :])


def test_numbers_and_names_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0 and 1"):
        Limits(at_least=0)
    with pytest.raises(ValueError, match="did you mean 'nearest'"):
        Limits(rounding="neares")
    with pytest.raises(ValueError, match="in \\[0, 1\\]; got 2"):
        Limits(most={"a": 2})
    groups = channel_groups(mlp(), torch.ones(1, 5))
    with pytest.raises(ValueError, match=r"unknown layer '0.wieght'; did you mean '0.weight'"):
        groups.limited(ignore=["0.wieght"])


def test_groups_are_left_out_by_weight_module_or_kind_and_say_so():
    groups = channel_groups(Residual(), torch.randn(1, 2, 6, 6))
    assert set(groups.limited(only=["residual"]).groups) == {"stem.weight", "b2.weight"}
    assert set(groups.limited(only=["inner"]).groups) == {"a1.weight", "b1.weight"}
    assert set(groups.limited(ignore=["an", "b?"]).groups) == {"a1.weight"}  # the norm writes the stream
    left = groups.limited(ignore=["a1.weight"])
    assert set(left.groups) == {"stem.weight", "b1.weight", "b2.weight"}  # a1 reads the stem: that may go
    assert {g.name: g.reason for g in left.frozen}["a1.weight"] == "ignored"
    assert left.reduce({"a1.weight": torch.ones(5, 4, 3, 3)}).keys() == {"stem.weight"}


@pytest.mark.parametrize(("limits", "stay"), [({}, 1), ({"multiple_of": 4}, 4), ({"at_least": 3}, 3)])
def test_limits_hold_in_what_is_removed_for_other_reasons(limits, stay):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = channel_groups(model, torch.ones(1, 3)).limited(**limits)
    told = shrink_(model, groups, {"2.weight": torch.zeros(2, 8, dtype=torch.bool)})
    assert model[0].out_features == stay
    assert told.kept_back["0.weight"].endswith("a limit keeps it" if limits else "the last one of its group")
