import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from tonsor.prune import STATISTICS, collect, needs, random, wanda
from tonsor.prune.statistics import arguments

BOTH = ["gradient", "input_norm"]
ALL = [name for name in STATISTICS if name != "activation_rank"]  # which is of convolutions
each = pytest.mark.parametrize("names", [*([name] for name in ALL), ALL], ids=[*ALL, "all"])


class Counting(nn.Module):
    """Write to its buffers even in eval mode: one in place, one by a new tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean(0)[:2]
        return x + torch.rand(())


def square(output, _):
    return output.square().mean()


def network():
    """Return a model half in training, with one frozen weight and a gradient."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), Counting(), nn.Linear(4, 2)
    model = nn.Sequential(*layers)
    model[1].eval()
    model[4].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones(4, 3)
    return model


def photograph(model):
    return {
        "training": [module.training for module in model.modules()],
        "state": copy.deepcopy(model.state_dict()),
        "identity": [id(t) for t in (*model.parameters(), *model.buffers())],
        "wanted": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "random": torch.get_rng_state(),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "watched": len(_get_current_function_mode_stack()),
    }


def same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def batches(count=2):
    return [(torch.randn(5, 3), None) for _ in range(count)]


@each
def test_collecting_leaves_the_model_as_it_was(names):
    model, data = network(), batches()
    before = photograph(model)
    collect(model, data, names=names, weights=["0.weight"], loss=square)
    same(photograph(model), before)


@each
def test_an_error_leaves_the_model_as_it_was(names):
    model, data = network(), [*batches(), (torch.randn(5, 99), None)]
    before = photograph(model)
    with pytest.raises(RuntimeError, match=r"shapes|size of tensor"):
        collect(model, data, names=names, weights=["0.weight"], loss=square)
    same(photograph(model), before)


def test_a_weight_that_has_not_the_statistic_leaves_the_model_as_it_was():
    model, data = network(), batches()
    before = photograph(model)
    with pytest.raises(ValueError, match=r"'norm_scale'.*'4.weight' of Linear"):
        collect(model, data, names=ALL, weights=["4.weight"], loss=square)
    same(photograph(model), before)


def test_statistics_gathered_together_are_those_gathered_apart():
    model, data = network(), batches()
    del model[3]  # it draws, and the passes would draw something else
    gather = partial(collect, model, data, weights=["0.weight"], loss=square)
    together = gather(names=ALL)["0.weight"]
    for name in ALL:
        same(gather(names=[name])["0.weight"][name], together[name])


@pytest.mark.slow
def test_an_exported_graph_has_a_gradient_and_keeps_its_modes():
    model, data = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), batches()
    graph = torch.export.export(model, (data[0][0],)).module()
    flags = [module.training for module in graph.modules()]
    found = collect(graph, data, names=["gradient"], loss=square)
    same(found["0.weight"], collect(model, data, names=["gradient"], loss=square)["0.weight"])
    assert [module.training for module in graph.modules()] == flags


def test_a_shuffling_loader_does_not_move_the_random_state():
    model = nn.Linear(3, 2)
    dataset = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randn(8, 2))
    state = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True)
    collect(model, loader, names=["gradient"], loss=nn.functional.mse_loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_and_an_unused_weight_have_a_gradient():
    model = nn.Linear(3, 2)
    model.unused = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    found = collect(model, batches(1), names=["gradient"], loss=lambda output, _: output.sum())
    assert found["weight"]["gradient"].abs().sum() > 0
    assert torch.equal(found["unused.weight"]["gradient"], torch.zeros(2, 3))


def test_statistics_are_gathered_inside_no_grad_too():
    model, data = nn.Linear(3, 2), batches()
    outside = collect(model, data, names=BOTH, loss=square)
    with torch.no_grad():
        same(collect(model, data, names=BOTH, loss=square), outside)


def test_one_pass_is_enough_for_an_iterator():
    found = collect(nn.Linear(3, 2), iter(batches()), names=BOTH, loss=square)
    assert set(found["weight"]) == set(BOTH)


def test_inputs_may_be_a_tuple_or_named():
    model = nn.Bilinear(3, 3, 2)
    first, second = torch.randn(5, 3), torch.randn(5, 3)
    gather = partial(collect, model, names=["gradient"], loss=square)
    same(gather([((first, second), None)]), gather([({"input1": first, "input2": second}, None)]))


def test_a_layer_inside_a_transformer_is_seen_in_eval_mode():
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    found = collect(model, [(torch.randn(2, 3, 4), None)], names=["input_norm"], weights=["linear1.weight"])
    assert (found["linear1.weight"]["input_norm"] > 0).all()


def test_half_precision_sums_to_single():
    model = nn.Linear(3, 2).bfloat16()
    found = collect(model, [(torch.full((9, 3), 1e-3).bfloat16(), None)] * 2, names=BOTH, loss=square)
    assert {value.dtype for value in found["weight"].values()} == {torch.float32}


def test_a_weight_that_runs_through_no_forward_of_its_own_is_named():
    model = nn.MultiheadAttention(4, 2)
    x = torch.randn(3, 1, 4)
    with pytest.raises(
        ValueError, match=r"'out_proj.weight'.*NonDynamicallyQuantizableLinear was not called"
    ):
        collect(model, [((x, x, x), None)], names=["input_norm"], weights=["out_proj.weight"])


@pytest.mark.parametrize(
    ("model", "name"),
    [(nn.LSTM(3, 4), "weight_ih_l0"), (nn.Linear(3, 4), "bias"), (nn.Embedding(3, 4), "weight")],
    ids=["LSTM", "bias", "Embedding"],
)
def test_a_weight_without_input_features_is_named_with_its_module(model, name):
    with pytest.raises(ValueError, match=rf"not defined for '{name}' of {type(model).__name__}"):
        collect(model, batches(), names=["input_norm"], weights=[name])
    assert not model._forward_hooks


def test_a_recurrent_layer_has_a_gradient():
    model = nn.LSTM(3, 4)
    found = collect(model, [(torch.randn(2, 5, 3), None)], names=["gradient"], loss=lambda o, _: o[0].sum())
    assert found["weight_hh_l0"]["gradient"].abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"names": ["gradiant"]}, "unknown statistic 'gradiant'; did you mean 'gradient'"),
        ({"names": BOTH, "loss": None}, "'gradient' needs a loss"),
        ({"names": BOTH, "weights": ["wieght"]}, "unknown parameter 'wieght'; did you mean 'weight'"),
        ({"names": BOTH, "loss": lambda o, _: o}, r"one number; got shape \(5, 2\)"),
        ({"names": BOTH, "loss": lambda o, _: o.detach().sum()}, "depends on none"),
    ],
)
def test_a_mistake_is_told(wrong, says):
    with pytest.raises(ValueError, match=says):
        collect(nn.Linear(3, 2), batches(), **{"loss": square, **wrong})


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="no batch"):
        collect(nn.Linear(3, 2), [], names=["input_norm"])


def test_needs_sees_through_partial_and_objects():
    class Blend:
        def __call__(self, weight, gradient, input_norm, /, *, share=0.5):
            return weight * gradient * input_norm * share

    assert needs(partial(wanda)) == ("input_norm",)
    assert needs(partial(Blend(), share=1.0)) == ("gradient", "input_norm")
    assert arguments(partial(random, seed=3)) == ("name",)
