import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tonsor.recipe.pareto import pareto
from tonsor.report import front
from tonsor.shrink import load


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def test_a_sweep_that_was_stopped_goes_on_where_it_was(tmp_path):
    model, tuned = network(), []

    def tune(small):
        tuned.append(small[0].out_features)
        if len(tuned) == 2:
            raise KeyboardInterrupt
        small[0].bias.data.add_(1.0)

    targets = [{"macs": 0.75}, {"macs": 0.5}, {"params": 0.25}]
    with pytest.raises(KeyboardInterrupt):
        pareto(model, X, lambda m: float(m[0].out_features), tmp_path, targets=targets, tune=tune)
    rows = pareto(model, X, lambda m: float(m[0].out_features), tmp_path, targets=targets, tune=tune)
    assert tuned == [12, 8, 8, 3]
    assert [row["accuracy"] for row in rows] == [16.0, 12.0, 8.0, 3.0]
    assert [row["macs"] for row in rows] == [96, 72, 48, 18]
    assert model[0].out_features == 16
    small = load(network(), tmp_path / "macs-0.5.safetensors")
    assert small[0].out_features == 8
    assert "best:" in (tmp_path / "front.svg").read_text()


def test_a_folder_of_another_model_is_refused(tmp_path):
    model = network()
    pareto(model, X, lambda m: 1.0, tmp_path, targets=[])
    other = copy.deepcopy(model)
    other[0].bias.data.add_(1.0)
    with pytest.raises(ValueError, match="a model with other weights"):
        pareto(other, X, lambda m: 1.0, tmp_path, targets=[])


points = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=12)


@given(drawn=points)
def test_a_point_is_on_the_front_unless_another_is_as_good_and_better(drawn):
    rows = [{"name": str(i), "accuracy": a, "latency_ms": t} for i, (a, t) in enumerate(drawn)]
    best = front(rows)
    values = {(drawn[int(name)]) for name in best}
    expected = {(a, t) for a, t in drawn if not any(b >= a and s <= t and (b, s) != (a, t) for b, s in drawn)}
    assert values == expected
    assert len(best) == len(values)
