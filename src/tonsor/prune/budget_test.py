from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.prune import (
    Budget,
    Channel,
    bytes_on_disk,
    collect,
    erk,
    find_masks,
    find_sparsity,
    lamp,
    local,
    macs,
    n_of_m,
    owl,
    parameters,
    uniform_plus,
)
from tonsor.prune.scopes import across
from tonsor.shrink import channel_groups

POSITIONS = {"a": 9, "b": 100, "c": 1}
pytestmark = pytest.mark.filterwarnings("ignore:.*nothing of")


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3), "b": (6, 4), "c": (3, 6)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def one_by_one(given_weights, budget, units, **parts):
    """Remove one unit after the other, each within the masks of before, until the budget holds."""
    masks = None
    for count in range(units):
        masks = find_masks(given_weights, count / units, within=masks, **parts)
        if budget.cost(masks) <= budget.most(given_weights):
            return masks
    return None


@given(
    share=st.floats(0.25, 1),
    cost=st.sampled_from([parameters, partial(macs, positions=POSITIONS), partial(bytes_on_disk, bits=8)]),
    scope=st.sampled_from([across, local, lamp, erk, owl]),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_halving_ends_where_removing_one_by_one_ends(share, cost, scope, seed):
    given_weights, budget = weights(seed), Budget(cost=cost, share=share)
    sparsity = find_sparsity(given_weights, budget, scope=scope)
    found = find_masks(given_weights, sparsity, scope=scope)
    if scope is owl:  # its outliers are counted among what is there, so step by step it goes another way
        assert cost(found) <= share * cost(find_masks(given_weights, 0.0))
        return
    slow = one_by_one(given_weights, budget, 54, scope=scope)
    assert all(torch.equal(found[name], slow[name]) for name in found)


@pytest.mark.slow
def test_a_unit_of_coupled_channels_saves_in_the_layer_before_and_in_the_one_after():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Flatten(),
        nn.Linear(96, 5),
    )
    x = torch.randn(1, 2, 4, 4)
    chosen = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    stats = collect(model, [(x, None)], names=["positions"], weights=chosen)
    cost = partial(macs, positions={name: of["positions"] for name, of in stats.items()})
    dense = cost(find_masks(chosen, 0.0))
    assert dense == 16 * 8 * 2 * 9 + 16 * 6 * 8 * 9 + 96 * 5
    groups, budget = channel_groups(model, x), Budget(cost=cost, share=0.4)
    sparsity = find_sparsity(chosen, budget, pattern=groups)
    found = find_masks(chosen, sparsity, pattern=groups)
    steps = [find_masks(chosen, count / 14, pattern=groups) for count in range(14)]
    slow = next(masks for masks in steps if cost(masks) <= 0.4 * dense)
    assert all(torch.equal(found[name], slow[name]) for name in found)
    first, second = (int(found[name].any(1).flatten(1).any(1).sum()) for name in ("0.weight", "2.weight"))
    assert cost(found) == 16 * first * 2 * 9 + 16 * second * first * 9 + 16 * second * 5 <= 0.4 * dense


def test_a_budget_that_holds_already_removes_nothing():
    assert find_sparsity(weights(), Budget(cost=parameters, limit=54)) == 0
    before = find_masks(weights(), 0.5)
    assert find_sparsity(weights(), Budget(cost=parameters, share=0.5), within=before) == 0
    assert find_sparsity({}, Budget(cost=parameters, share=0.5)) == 0


def test_rows_are_counted_as_units():
    sparsity = find_sparsity(weights(), Budget(cost=parameters, limit=40), pattern=Channel())
    assert round(sparsity * 13) == pytest.approx(sparsity * 13)
    assert parameters(find_masks(weights(), sparsity, pattern=Channel())) <= 40


@pytest.mark.parametrize(
    ("scope", "share", "highest"), [(n_of_m, 0.5, 0.5), (partial(uniform_plus, last=0.5), 0.4, 33 / 54)]
)
def test_a_scope_that_ends_early_is_followed_to_its_end(scope, share, highest):
    sparsity = find_sparsity(weights(), Budget(cost=parameters, share=0.7), scope=scope)
    assert 0 < sparsity <= highest
    if share < 0.5:
        with pytest.raises(ValueError, match=r"cannot be met: the cost may be 5\.4, and at a sp"):
            find_sparsity(weights(), Budget(cost=parameters, share=0.1), scope=scope)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "either share or limit"),
        ({"share": 0.5, "limit": 3}, "either share or limit"),
        ({"share": 1.5}, r"share must lie in \[0, 1\]"),
        ({"limit": -1}, "limit must be at least 0"),
    ],
)
def test_a_budget_has_one_bound_in_range(keys, says):
    with pytest.raises(ValueError, match=says):
        Budget(cost=parameters, **keys)


@given(density=st.floats(0, 1), rows=st.integers(1, 6), columns=st.integers(1, 700), bits=st.integers(1, 32))
@settings(max_examples=50)
def test_the_bytes_are_those_of_the_smallest_layout(density, rows, columns, bits):
    mask = np.random.default_rng(0).random((rows, columns)) < density
    kept, values = mask.sum(), -(-int(mask.sum()) * bits // 8)
    column = 1 if columns <= 256 else 2
    layouts = (
        -(-mask.size * bits // 8),
        len(np.packbits(mask)) + values,
        4 * (rows + 1) + column * kept + values,
    )
    assert bytes_on_disk({"w": torch.tensor(mask)}, bits=bits) == min(layouts)


def test_positions_of_each_element_are_welcome_and_missing_ones_told():
    mask = torch.tensor([[True, False], [True, True]])
    assert macs({"w": mask}, positions={"w": torch.tensor([[5.0], [2.0]])}) == 9
    with pytest.raises(ValueError, match="unknown weight 'w'; did you mean 'w2'"):
        macs({"w": mask}, positions={"w2": 1})


def test_bits_are_at_least_one():
    with pytest.raises(ValueError, match="bits must be at least 1; got 0"):
        bytes_on_disk({}, bits=0)
