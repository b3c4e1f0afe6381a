import copy

import pytest
import torch
from torch import nn

from tonsor.examples.models import lenet_5, resnet
from tonsor.pack import SparseLayer, Timed, densify_, swap_sparse_


@torch.no_grad()
def pruned(model, density=0.3):
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape) * parameter.shape[0] ** -0.5)
            parameter.mul_(torch.rand(parameter.shape) < density)
    return model.eval()


def forced(model, example, **settings):
    return swap_sparse_(model, example, **{"ways": ("kernel",), "seconds": 0, "batches": (2,), **settings})


def clocked(monkeypatch, **ratios):
    """Let times be what they are said to be."""

    def timed(layer, ways, shape, seconds):
        known = {"dense": 1.0, "csr": 2.0, "kernel": 2.0, "int8": 2.0, "swapped": 1.0, **ratios}
        return Timed(known, {name: known[name] for name in ["dense", *ways]})

    monkeypatch.setitem(swap_sparse_.__globals__, "timed", timed)


@pytest.mark.parametrize(("build", "shape"), [(lenet_5, (3, 1, 28, 28)), (resnet, (3, 1, 16, 16))])
def test_a_swapped_model_gives_what_the_dense_one_gives_and_comes_back(build, shape):
    model = pruned(build())
    dense, x = copy.deepcopy(model), torch.randn(shape)
    swapped = forced(model, x)
    layers = [name for name, m in dense.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert [choice.name for choice in swapped.choices] == layers
    assert all(isinstance(model.get_submodule(name), SparseLayer) for name in layers)
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == list(dense.state_dict())
    copied = copy.deepcopy(model)
    assert densify_(model) == layers
    assert str(model) == str(dense)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), dense.state_dict().values(), strict=True)
    )
    assert model.train()(x).requires_grad
    torch.testing.assert_close(copied(x), dense(x), rtol=1e-4, atol=1e-4)


def test_neighbours_hand_on_feature_by_feature_where_nothing_minds():
    chain = nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 30), nn.LayerNorm(30), nn.Linear(30, 9))
    model = pruned(chain)
    dense, x = copy.deepcopy(model), torch.randn(3, 5, 20)
    assert forced(model, x).linked == ["0"]
    assert [model[at].turned for at in (0, 2, 4)] == [True, False, False]
    torch.testing.assert_close(model(x), dense(x))
    assert model(x).is_contiguous()


class Viewing(nn.Module):
    """Cuts samples in two with `view`, which needs memory that lies side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Linear(6, 5)

    def forward(self, x):
        return self.b(self.a(x).sin().view(-1, 6))


def test_a_model_that_views_keeps_its_memory_side_by_side():
    model = pruned(Viewing())
    dense, x = copy.deepcopy(model), torch.randn(4, 12)
    assert forced(model, x).linked == []
    torch.testing.assert_close(model(x), dense(x))


def test_a_layer_in_two_places_is_one_layer_and_keeps_being_one():
    shared = nn.Linear(8, 8)
    model = pruned(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(8, 2)))
    dense, x = copy.deepcopy(model), torch.randn(4, 8)
    swapped = forced(model, x)
    assert [choice.name for choice in swapped.choices] == ["0", "3"]
    assert model[0] is model[2]
    torch.testing.assert_close(model(x), dense(x))
    densify_(model)
    assert model[0] is model[2]


def test_what_cannot_be_swapped_is_left_and_the_reason_told():
    tied = nn.Linear(8, 8)
    tied.weight = (embedding := nn.Embedding(8, 8)).weight
    model = nn.ModuleDict(
        {
            "embedding": embedding,
            "tied": tied,
            "short": nn.Linear(8, 8).half(),
            "hooked": nn.Linear(8, 8),
            "parametrised": nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
            "attention": nn.MultiheadAttention(8, 2),
            "fused": nn.TransformerEncoderLayer(8, 2, 8),
            "unused": nn.Linear(8, 8),
            "full": nn.Linear(8, 8),
            "used": nn.Linear(8, 8),
        }
    )
    model["hooked"].register_forward_hook(lambda *_: None)
    for name in ("tied", "short", "hooked", "unused", "used"):
        model[name].weight.data[1:] = 0
    model.forward = model["used"].__call__
    left = forced(model.eval(), torch.ones(1, 8)).left
    expected = {
        "tied": "tied",
        "short": "float16",
        "hooked": "hooks",
        "parametrised": "no plain layer",
        "attention.out_proj": "no plain layer",
        "fused.linear1": "fused",
        "unused": "never calls",
        "full": "density 1.00",
    }
    assert all(why in left[name] for name, why in expected.items())
    assert "used" not in left


def test_keyword_arguments_and_tuples_are_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x, y):
            return self.a(x) + y

    for example in ({"x": torch.ones(1, 4), "y": torch.ones(1, 4)}, (torch.ones(1, 4), torch.ones(1, 4))):
        assert [c.name for c in forced(pruned(Two()), example).choices] == ["a"]


def test_the_fastest_way_is_planned_and_dense_where_none_is_clearly_faster(monkeypatch):
    x = torch.ones(1, 8)
    clocked(monkeypatch, kernel=0.5, csr=0.7)
    model = pruned(nn.Sequential(nn.Linear(8, 8)))
    swapped = swap_sparse_(model, x, batches=(1, 64), seconds=0)
    assert swapped.choices[0].plan == {1: "kernel", 64: "kernel"}
    assert "kernel at 64 columns (2.00x dense)" in swapped.told
    clocked(monkeypatch, kernel=0.97)
    model = pruned(nn.Sequential(nn.Linear(8, 8)))
    swapped = swap_sparse_(model, x, seconds=0)
    assert set(swapped.choices[0].plan.values()) == {"dense"}
    assert type(model[0]) is nn.Linear
    assert "left dense" in swapped.told


def test_int8_is_told_and_taken_only_if_asked_for(monkeypatch):
    clocked(monkeypatch, kernel=0.5, int8=0.25)
    model = pruned(nn.Sequential(nn.Linear(8, 8)))
    told = swap_sparse_(model, torch.ones(1, 8), batches=(4,), ways=("dense", "kernel"), seconds=0).told
    assert "int8 would be 4.00x" in told
    model = pruned(nn.Sequential(nn.Linear(8, 8)))
    swapped = swap_sparse_(model, torch.ones(1, 8), batches=(4,), ways=("kernel", "int8"), seconds=0)
    assert swapped.choices[0].plan == {4: "int8"}


def test_a_layer_that_is_slower_for_some_batch_stays_dense(monkeypatch):
    def timed(layer, ways, shape, seconds):
        known = {"dense": 1.0, "kernel": 0.5 if shape[0] == 64 else 2.0, "swapped": 1.2}
        return Timed(known, {name: known.get(name, 3.0) for name in ["dense", *ways]})

    monkeypatch.setitem(swap_sparse_.__globals__, "timed", timed)
    model = pruned(nn.Sequential(nn.Linear(8, 8)))
    swapped = swap_sparse_(model, torch.ones(1, 8), batches=(1, 64), seconds=0)
    assert swapped.choices[0].plan == {1: "dense", 64: "kernel"}
    assert type(model[0]) is nn.Linear


def test_a_model_that_becomes_slower_is_put_back(monkeypatch):
    clocked(monkeypatch, kernel=0.5)
    slow = Timed({}, {"dense": 1.0, "swapped": 1.5})
    monkeypatch.setitem(swap_sparse_.__globals__, "summary", lambda taken: slow)
    model = pruned(nn.Sequential(nn.Linear(8, 8)))
    swapped = swap_sparse_(model, torch.ones(1, 8), seconds=0)
    assert type(model[0]) is nn.Linear
    assert "all layers are dense again" in swapped.told
    assert not swapped.choices[0].swapped


def test_a_table_has_a_row_for_each_layer_and_number_of_columns():
    model = pruned(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2)))
    rows = forced(model, torch.ones(1, 1, 8, 8), batches=(1, 3)).rows()
    assert [(row["name"], row["columns"], row["way"]) for row in rows] == [
        ("0", 36, "kernel"), ("0", 108, "kernel"), ("2", 1, "kernel"), ("2", 3, "kernel"),
    ]  # fmt: skip
    assert all(row["dense"] > 0 and row["kernel"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ways": ("kernal",)}, "did you mean 'kernel'"),
        ({"ways": ()}, "name a way"),
        ({"batches": (0,)}, "batches of 1 or more"),
        ({"densest": 2}, "density in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    model = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(ValueError, match=told):
        swap_sparse_(model, torch.ones(1, 8), **settings)
    with pytest.raises(ValueError, match="wrap it in"):
        swap_sparse_(nn.Linear(8, 8), torch.ones(1, 8))
