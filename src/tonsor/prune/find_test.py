from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.prune import Channel, across, apply_masks_, find_masks, local, n_of_m, random, taylor, wanda

sparsities = st.floats(0, 0.99)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (6, 4), "b": (3, 5, 2, 2), "c": (7,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def gone(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


def test_masks_have_the_shape_of_the_weights_which_stay_as_they_are():
    given_weights, before = weights(), weights()
    masks = find_masks({n: nn.Parameter(w) for n, w in given_weights.items()}, 0.5)
    for name, weight in given_weights.items():
        assert masks[name].shape == weight.shape
        assert masks[name].dtype is torch.bool
        assert torch.equal(weight, before[name])
    assert gone(masks) == round(0.5 * 91)


@pytest.mark.filterwarnings("ignore:.*nothing of")
@given(first=sparsities, second=sparsities, scope=st.sampled_from([local, across]), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_within_is_never_revived_and_counts_towards_the_sparsity(first, second, scope, seed):
    given_weights = weights(seed)
    before = find_masks(given_weights, first, scope=scope)
    after = find_masks(given_weights, second, scope=scope, within=before)
    for name in given_weights:
        assert not (after[name] & ~before[name]).any()
    direct = find_masks(given_weights, max(first, second), scope=scope)
    assert all(torch.equal(after[name], direct[name]) for name in given_weights)


@pytest.mark.filterwarnings("ignore:.*nothing of")
@given(seed=st.integers(0, 9), scope=st.sampled_from([local, across]))
@settings(max_examples=10)
def test_the_least_important_one_by_one_is_the_same_as_at_once(seed, scope):
    given_weights = {"a": weights(seed)["a"]}
    masks = None
    for count in range(1, 13):
        masks = find_masks(given_weights, count / 24, scope=scope, within=masks)
        assert gone(masks) == count
    assert torch.equal(masks["a"], find_masks(given_weights, 0.5, scope=scope)["a"])


def test_what_another_criterion_removed_stays_removed():
    given_weights = weights()
    before = find_masks(given_weights, 0.3, importance=random)
    after = find_masks(given_weights, 0.6, within=before)
    assert gone(after) == round(0.6 * 91)
    assert all(not (after[name] & ~before[name]).any() for name in given_weights)
    apply_masks_(given_weights, before)
    assert all(torch.equal(after[n], find_masks(given_weights, 0.6, within=before)[n]) for n in given_weights)


@pytest.mark.parametrize("least", [0.0, -1.0])
def test_a_live_weight_of_low_score_does_not_go_before_a_removed_one(least):
    stats = {"w": {"momentum": torch.tensor([least, 5.0, 3.0])}}
    before = {"w": torch.tensor([True, False, True])}
    masks = find_masks({"w": torch.ones(3)}, 1 / 3, importance=asks_for_more, stats=stats, within=before)
    assert torch.equal(masks["w"], before["w"])


def test_within_of_some_weights_is_enough():
    before = {"c": torch.zeros(7, dtype=torch.bool)}
    masks = find_masks(weights(), 0.2, within=before)
    assert not masks["c"].any()
    assert gone(masks) == round(0.2 * 91)


def test_rows_are_removed_whole_and_an_emptied_row_goes_first():
    weight = torch.tensor([[9.0, 9.0], [1.0, 1.0], [5.0, 5.0], [7.0, 0.1]])
    before = torch.tensor([[False, False], [True, True], [True, True], [False, True]])
    masks = find_masks({"w": weight}, 0.5, pattern=Channel(), within={"w": before})
    assert masks["w"].tolist() == [[False, False], [True, True], [True, True], [False, False]]


class Joined:
    """Let row i of `a` and element i of `c` live or die together; `b` has no units."""

    def reduce(self, scores, /):
        return {"rows": scores["a"].sum(1) + scores["c"]}

    def expand(self, keep, like, /):
        return {"a": keep["rows"][:, None].expand_as(like["a"]), "c": keep["rows"]}


def test_a_pattern_may_join_weights_and_leave_some_out():
    joined = {"a": torch.eye(3) * 0.1, "b": torch.zeros(5), "c": torch.tensor([3.0, 2.0, 1.0])}
    before = {"a": torch.tensor([[False] * 3, [True] * 3, [True] * 3])}  # row 0 lives on in c alone
    masks = find_masks(joined, 1 / 3, pattern=Joined(), within=before)
    assert masks["c"].tolist() == [True, True, False]
    assert masks["a"].tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert masks["b"].all()


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_channels_of_a_convolution_are_removed_whole(dim):
    weight = weights()["b"]
    masks = find_masks({"b": weight}, 0.5, pattern=Channel(dim=dim), scope=local)
    lines = masks["b"].movedim(dim, 0).flatten(1)
    assert torch.equal(lines.any(1), lines.all(1))
    assert (~lines.any(1)).sum() == round(0.5 * weight.shape[dim])
    scores = weight.abs().movedim(dim, 0).flatten(1).double().sum(1)
    assert scores[lines.any(1)].min() > scores[~lines.any(1)].max()


def test_a_dimension_that_a_weight_has_not_is_told():
    with pytest.raises(ValueError, match=r"weight 'a' of shape \(6, 4\) has no dimension 2"):
        find_masks({"a": weights()["a"]}, 0.5, pattern=Channel(dim=2))


def test_a_schedule_leads_to_two_of_four():
    given_weights = {"a": weights()["a"]}
    masks = None
    for sparsity in (0.0, 0.25, 0.4, 0.5):
        masks = find_masks(given_weights, sparsity, scope=n_of_m, within=masks)
    assert (masks["a"].sum(1) == 2).all()


def test_zero_weights_and_no_weights_are_no_trouble():
    assert gone(find_masks({"w": torch.zeros(10)}, 0.3)) == 3
    assert find_masks({}, 0.5) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused_by_name(bad):
    given_weights = weights()
    given_weights["b"][0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="'magnitude' gave weight 'b' a score"):
        find_masks(given_weights, 0.5)


def test_scores_of_another_shape_are_refused_by_name():
    stats = {name: {"input_norm": torch.ones(2, 1, 1)} for name in weights()}
    with pytest.raises(ValueError, match=r"'wanda' must score every element of 'a'; expected shape \(6, 4\)"):
        find_masks(weights(), 0.5, importance=wanda, stats=stats)


def asks_for_more(weight, momentum, /):
    return weight * momentum


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"importance": taylor}, r"'taylor' needs 'gradient' of weight 'a'; give stats=collect\("),
        ({"importance": partial(taylor), "stats": {"a": {}}}, "'taylor' needs 'gradient' of weight 'a'"),
        ({"importance": taylor, "stats": {"x.a": {}}}, "in stats: unknown weight 'a'. Known: x.a"),
        ({"importance": asks_for_more}, "needs 'momentum'.*unknown statistic 'momentum'"),
        ({"within": {"d": torch.ones(7) > 0}}, "in within: unknown weight 'd'"),
        ({"within": {"c": torch.ones(6) > 0}}, r"mask of 'c' must be boolean of shape \(7,\)"),
        ({"within": {"c": torch.ones(7)}}, "got torch.float32"),
    ],
)
def test_a_mistake_is_told(settings_, says):
    with pytest.raises(ValueError, match=says):
        find_masks(weights(), 0.5, **settings_)


def test_a_statistic_of_ones_own_may_be_handed_in():
    stats = {"c": {"momentum": torch.arange(7.0)}}
    masks = find_masks({"c": torch.ones(7)}, 3 / 7, importance=asks_for_more, stats=stats)
    assert masks["c"].tolist() == [False] * 3 + [True] * 4


def test_a_weight_of_which_nothing_stays_is_warned_of_once():
    weights = {"small": torch.tensor([[0.1, 0.2]]), "large": torch.tensor([[3.0, 4.0]])}
    with pytest.warns(UserWarning, match="nothing of 'small' stays"):
        masks = find_masks(weights, 0.5)
    again = find_masks(weights, 0.5, within=masks)  # told before: silent
    assert all(torch.equal(again[name], masks[name]) for name in masks)
