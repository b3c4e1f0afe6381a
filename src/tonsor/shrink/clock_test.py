import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tonsor.shrink import channel_groups
from tonsor.shrink.clock import at_widths, interpolated, latency_tables, milliseconds
from tonsor.shrink.nets_test import NETS, Hardcoded, built, mlp


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_copy_at_other_widths_runs_and_the_model_is_as_it_was(name):
    model, example = built(name)
    groups = channel_groups(model, example)
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    small = at_widths(model, groups, {g: max(1, group.units // 2) for g, group in groups.groups.items()})
    [taken] = milliseconds([small], groups.trace.example)
    assert 0 < taken < 10_000
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags


def test_a_model_with_sizes_in_its_code_is_timed_too():
    model, x = Hardcoded(), torch.randn(2, 1, 4, 4)
    groups = channel_groups(model, x)
    small = at_widths(model, groups, {"conv.weight": 2, "hidden.weight": 3})
    assert small(x).shape == (2, 2)
    assert small.conv.out_channels == 2


def test_the_table_has_some_widths_of_each_group_and_the_whole():
    tables = latency_tables(mlp(), channel_groups(mlp(), torch.randn(1, 5)))
    assert {name: list(table) for name, table in tables.items()} == {
        "0.weight": [2, 3, 4, 6],  # a quarter of 6 and its half: halves are rounded to even
        "3.weight": [2, 4, 5, 7],
    }
    assert len({table[max(table)] for table in tables.values()}) == 1


@given(times=st.lists(st.floats(0.1, 9.0), min_size=1, max_size=4), gap=st.integers(1, 5))
def test_between_the_measured_widths_time_never_falls_with_the_width(times, gap):
    table = {gap * (i + 1): taken for i, taken in enumerate(times)}
    found = interpolated(table, max(table))
    assert len(found) == max(table) + 1
    assert (np.diff(found) >= -1e-9).all()
    assert found[-1] == times[-1]


def test_models_take_turns_in_eval_mode_without_gradients():
    class Noted(nn.Module):
        def __init__(self, name, seen):
            super().__init__()
            self.name, self.seen, self.weight = name, seen, nn.Parameter(torch.ones(1))

        def forward(self, x):
            self.seen.append((self.name, self.training, torch.is_grad_enabled()))
            return x * self.weight

    seen = []
    models = [Noted("a", seen), Noted("b", seen)]
    assert len(milliseconds(models, ((torch.ones(1),), {}))) == 2
    assert [name for name, _, _ in seen[:4]] == ["a", "b", "a", "b"]
    assert not any(training or grad for _, training, grad in seen)
    assert all(model.training for model in models)
