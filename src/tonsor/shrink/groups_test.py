import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.shrink import channel_groups
from tonsor.shrink.nets_test import NETS, Residual, Tied, built, mlp, vgg

pytestmark = pytest.mark.slow


def places(group):
    """Return the slices of a group as plain data: name and dimension -> indices by unit."""
    return {(part.parameter, part.dim): part.index.tolist() for part in group.slices}


def ones(count, start=0):
    """Return the places of units that have one each, in order."""
    return [[i] for i in range(start, start + count)]


@pytest.mark.parametrize("name", NETS)
def test_the_groups_are_those_found_by_hand(name):
    model, example = built(name)
    groups = channel_groups(model, example).groups
    assert {group: (g.units, g.cost) for group, g in groups.items()} == NETS[name][2]


def test_a_flattened_channel_owns_all_its_columns():
    groups = channel_groups(vgg(), torch.randn(2, 2, 8, 8)).groups
    columns = next(part for part in groups["4.weight"].slices if part.parameter == "8.weight")
    assert columns.index.tolist() == [[4 * c + i for i in range(4)] for c in range(8)]


def test_a_residual_stream_and_its_roles():
    group = channel_groups(Residual(), torch.randn(2, 2, 6, 6)).groups["stem.weight"]
    assert {f"{part.parameter}[{part.dim}]": part.role for part in group.slices} == {
        "stem.weight[0]": "producer",
        "stem.bias[0]": "through",
        "a1.weight[1]": "consumer",
        "a2.weight[0]": "producer",
        "an.weight[0]": "through",
        "an.bias[0]": "through",
        "an.running_mean[0]": "through",
        "an.running_var[0]": "through",
        "b1.weight[1]": "consumer",
        "down.weight[1]": "consumer",
    }
    assert all(part.index.tolist() == ones(4) for part in group.slices)


def test_a_tied_weight_has_both_roles_and_appears_once():
    group = channel_groups(Tied(), torch.zeros(2, 4, dtype=torch.int64)).groups["embed.weight"]
    roles = {f"{part.parameter}[{part.dim}]": part.role for part in group.slices}
    assert roles["embed.weight[1]"] == "both"
    assert not any(name.startswith("head") for name in roles)


def test_a_concatenation_keeps_the_two_places_of_a_skip():
    model, example = built("u-net")
    groups = channel_groups(model, example).groups
    assert places(groups["down.weight"])["last.weight", 1] == ones(4, start=3)
    assert places(groups["up.weight"])["last.weight", 1] == ones(3)


@pytest.mark.parametrize("name", NETS)
def test_a_unit_is_what_its_columns_cut_off_and_no_less(name):
    """The oracle: with the columns at zero nothing behind them matters, and each column does matter."""
    model, example = built(name)
    found = channel_groups(model, example)
    fresh = torch.randn_like(example) if example.is_floating_point() else example.flip(1)
    model.eval()
    for group in found.groups.values():
        unit = group.units // 2
        columns = [part for part in group.slices if part.role in ("consumer", "both")]
        rest = [part for part in group.slices if part.role in ("producer", "through")]
        severed = copy.deepcopy(model)
        fill(severed, columns, unit, lambda part: part.zero_())
        before = severed(fresh)
        fill(severed, rest, unit, lambda part: part.uniform_(1.0, 2.0))
        torch.testing.assert_close(severed(fresh), before, rtol=1e-12, atol=1e-12)
        for column in columns:
            attached = copy.deepcopy(model)
            fill(attached, [part for part in columns if part is not column], unit, lambda p: p.zero_())
            before = attached(fresh)
            fill(attached, [part for part in rest if "running" not in part.parameter], unit, changed)
            assert not torch.equal(attached(fresh), before), column


def fill(model, parts, unit, change):
    """Change the slices of a unit in place."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for part in parts:
        own = tensors[part.parameter].data
        index = part.index[unit]
        own.index_copy_(part.dim, index, change(own.index_select(part.dim, index)))


def changed(part):
    """Return other numbers of the same shape."""
    return torch.randn_like(part) + 3.0


class Projected(nn.Module):
    """A recurrent layer whose hidden units are projected, for which there is no rule."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Linear(5, 8), nn.Linear(8, 4)
        self.lstm, self.head = nn.LSTM(4, 7, batch_first=True, proj_size=3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.lstm(self.inner(torch.relu(self.first(x))))[0][:, -1])


def test_what_has_no_rule_is_frozen_and_named_with_what_it_froze():
    groups = channel_groups(Projected(), torch.randn(2, 3, 5))
    frozen = {group.name: group.reason for group in groups.frozen}
    why = "no rule for aten.lstm in lstm: a projection of the hidden units"
    assert frozen["inner.weight"] == why
    assert frozen["lstm.weight_hh_l0 dim 0"] == why
    assert frozen["head.weight"] == "model output"
    assert frozen["first.weight dim 1"] == "model input"
    text = str(groups)
    assert "no rule for aten.lstm in lstm" in text
    assert "first.weight" in text


def test_normalised_channels_are_frozen_with_the_norm_as_the_reason():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GroupNorm(1, 4), nn.Linear(4, 2))
    groups = channel_groups(model, torch.randn(2, 3))
    assert groups.groups == {}
    assert "aten.layer_norm in 1" in {group.reason for group in groups.frozen}


def test_what_meets_an_input_of_its_size_stays_and_what_is_gated_by_one_number_does_not():
    class Met(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.a, self.b, self.size = nn.Linear(4, 4), nn.Linear(4, 2), size

        def forward(self, x):
            return self.b(self.a(x) + x[:, : self.size])

    frozen = channel_groups(Met(4), torch.randn(2, 4)).frozen
    assert {group.name: group.reason for group in frozen}["a.weight"] == "model input"
    assert channel_groups(Met(1), torch.randn(2, 4)).groups["a.weight"].units == 4


def test_nothing_of_the_model_changes_whether_it_can_be_exported_or_not():
    class Choosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x

    for model, example in ((vgg(), torch.randn(2, 2, 8, 8)), (Choosy(), torch.randn(4, 3))):
        for number, module in enumerate(model.modules()):
            module.training = number % 3 == 0
        flags = [module.training for module in model.modules()]
        state = copy.deepcopy(model.state_dict())
        seed = torch.random.get_rng_state()
        if isinstance(model, Choosy):
            with pytest.raises(ValueError, match="Choosy cannot be exported"):
                channel_groups(model, example)
        else:
            channel_groups(model, example)
        assert [module.training for module in model.modules()] == flags
        assert torch.equal(torch.random.get_rng_state(), seed)
        assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_scores_are_summed_over_all_slices_that_were_given(seed):
    torch.manual_seed(seed)
    groups = channel_groups(mlp(), torch.randn(1, 5))
    scores = {name: torch.rand(shape) for name, shape in groups.trace.shapes.items()}
    given = {name: scores[name] for name in ("0.weight", "0.bias", "3.weight")}
    units = groups.reduce(given)
    by_hand = given["0.weight"].sum(1) + given["0.bias"] + given["3.weight"].sum(0)
    torch.testing.assert_close(units["0.weight"], by_hand)
    torch.testing.assert_close(units["3.weight"], given["3.weight"].sum(1))
    assert groups.reduce({}) == {}


def test_masks_are_false_on_the_slices_of_removed_units_alone():
    groups = channel_groups(mlp(), torch.randn(1, 5))
    like = {name: torch.empty(shape) for name, shape in groups.trace.shapes.items()}
    masks = groups.expand({"0.weight": torch.arange(6) != 2}, like)
    wrong = {name: ~mask for name, mask in masks.items()}
    assert wrong["0.weight"].nonzero()[:, 0].unique().tolist() == [2]
    assert wrong["3.weight"].nonzero()[:, 1].unique().tolist() == [2]
    assert wrong["0.bias"].nonzero().tolist() == [[2]]
    assert not wrong["5.weight"].any()
    assert wrong["0.weight"].sum() == 5
    assert wrong["3.weight"].sum() == 7


def test_a_mask_is_given_under_the_tied_name_that_was_asked_for():
    groups = channel_groups(Tied(), torch.zeros(2, 4, dtype=torch.int64))
    masks = groups.expand({"embed.weight": torch.arange(6) > 0}, {"head.weight": torch.empty(11, 6)})
    assert masks["head.weight"].all(0).tolist() == [False, True, True, True, True, True]


def test_decisions_that_fit_no_group_are_refused():
    groups = channel_groups(mlp(), torch.randn(1, 5))
    with pytest.raises(ValueError, match=r"unknown group '0.wieght'; did you mean '0.weight'\?"):
        groups.expand({"0.wieght": torch.ones(6, dtype=torch.bool)}, {})
    with pytest.raises(ValueError, match=r"'0.weight' has 6 units; got a decision of shape"):
        groups.expand({"0.weight": torch.ones(5, dtype=torch.bool)}, {})
    with pytest.raises(ValueError, match=r"'0.weight' has shape \(6, 5\); got \(5, 6\)"):
        groups.reduce({"0.weight": torch.ones(5, 6)})


def test_arguments_by_name_and_a_block_without_gradients_are_followed():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, *, scale):
            with torch.no_grad():
                h = torch.relu(self.first(x)) * scale
            return {"out": self.last(h)}

    groups = channel_groups(Named(), (torch.randn(2, 3),), {"scale": torch.ones(2, 1)})
    assert places(groups.groups["first.weight"]) == {
        ("first.weight", 0): ones(4),
        ("first.bias", 0): ones(4),
        ("last.weight", 1): ones(4),
    }
