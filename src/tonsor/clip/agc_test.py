import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.clip import Units, agc, unit_dims

LAYERS = {  # a layer, and the axes its unit norms go over
    "linear": (nn.Linear(3, 4), (1,)),
    "conv1d": (nn.Conv1d(2, 4, 3), (1, 2)),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), (1, 2, 3)),
    "conv3d": (nn.Conv3d(2, 3, 2), (1, 2, 3, 4)),
    "transposed 1d": (nn.ConvTranspose1d(3, 5, 2), (0, 2)),
    "transposed 2d": (nn.ConvTranspose2d(3, 5, 2), (0, 2, 3)),
    "embedding": (nn.Embedding(5, 3), (1,)),
    "recurrent": (nn.GRU(2, 3, bias=False), (1,)),
}


def clipped(grad, weight, axes, clipping, eps):
    """Return the paper's formula in float64; `axes` are those of a unit's norm."""
    grad, weight = np.float64(grad), np.float64(weight)
    size = np.sqrt((grad**2).sum(axes, keepdims=True))
    bound = clipping * np.maximum(np.sqrt((weight**2).sum(axes, keepdims=True)), eps)
    return np.where(size > bound, grad * bound / np.where(size == 0, 1, size), grad)


def with_gradients(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        spread = 10 ** torch.empty(parameter.shape).uniform_(-4, 0, generator=generator)
        parameter.grad = spread * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize("name", LAYERS)
@given(seed=st.integers(0, 999), clipping=st.floats(1e-4, 1), eps=st.floats(1e-4, 1))
@settings(max_examples=15)
def test_each_layer_is_clipped_by_its_own_units(name, seed, clipping, eps):
    layer, axes = LAYERS[name]
    with_gradients(layer, seed)
    weight = next(layer.parameters())
    oracle = clipped(weight.grad.numpy(), weight.detach().numpy(), axes, clipping, eps)
    agc([weight], clipping=clipping, eps=eps, unit_dim=unit_dims(layer))
    np.testing.assert_allclose(weight.grad.numpy(), oracle, rtol=1e-5)


def test_a_bias_is_one_unit():
    bias = with_gradients(nn.Linear(2, 7), 0).bias
    oracle = clipped(bias.grad.numpy(), bias.detach().numpy(), (0,), 0.01, 1e-3)
    agc([bias])
    np.testing.assert_allclose(bias.grad.numpy(), oracle, rtol=1e-5)


def test_a_grouped_transposed_convolution_has_its_output_channels_as_units():
    layer = with_gradients(nn.ConvTranspose1d(4, 6, 3, groups=2), 1)
    weight = layer.weight  # (4, 3, 3): two groups of two inputs, each making three outputs
    split = [array.reshape(2, 2, 3, 3) for array in (weight.grad.numpy(), weight.detach().numpy())]
    oracle = clipped(*split, (1, 3), 0.05, 1e-3).reshape(4, 3, 3)
    agc([weight], clipping=0.05, unit_dim=unit_dims(layer))
    np.testing.assert_allclose(weight.grad.numpy(), oracle, rtol=1e-5)


@pytest.mark.parametrize(("dims", "axes"), [((0, 1), (2,)), ((0, 2), (1,))])
def test_stacked_experts_have_a_unit_for_each_output_of_each_expert(dims, axes):
    experts = nn.ParameterDict({"w": nn.Parameter(torch.zeros(3, 4, 5))})
    weight = with_gradients(experts, 2)["w"]
    oracle = clipped(weight.grad.numpy(), weight.detach().numpy(), axes, 0.02, 1e-3)
    agc([weight], clipping=0.02, unit_dim=unit_dims(experts, {"w": dims}))
    np.testing.assert_allclose(weight.grad.numpy(), oracle, rtol=1e-5)


def test_units_that_cannot_be_known_have_to_be_told():
    experts = nn.ParameterDict({"w": nn.Parameter(torch.zeros(3, 4, 5))})
    with pytest.raises(ValueError, match=r"'w' of shape \(3, 4, 5\) is of a ParameterDict.*name them"):
        unit_dims(experts)
    with pytest.raises(ValueError, match="'v' fits no parameter"):
        unit_dims(experts, {"v": 0})
    with pytest.raises(ValueError, match="does not belong to the model"):
        unit_dims(nn.Linear(1, 1))(torch.zeros(2))


def test_a_layer_left_alone_stays_as_it_is_and_counts_in_the_norm():
    model = with_gradients(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), 3)
    head = model[1].weight.grad.clone()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    norm = agc(list(model.parameters()), clipping=1e-3, unit_dim=unit_dims(model, {"1.*": None}))
    assert torch.equal(model[1].weight.grad, head)
    assert model[0].weight.grad.norm() < 0.1
    torch.testing.assert_close(norm, whole)


def test_weights_that_start_at_zero_learn():
    weight = torch.zeros(2, 3, requires_grad=True)
    for _ in range(300):
        weight.grad = weight.detach() - 1
        agc([weight], clipping=0.1)
        weight.data -= weight.grad
    assert weight.min() > 0.5


def test_a_sparse_embedding_is_clipped_row_by_row():
    table = nn.Embedding(6, 2, sparse=True)
    twin = nn.Embedding(6, 2, _weight=table.weight.detach().clone())
    for module in (table, twin):
        module(torch.tensor([1, 3, 3])).sum().backward()
        agc([module.weight])
    assert table.weight.grad.is_sparse
    assert torch.equal(table.weight.grad.to_dense(), twin.weight.grad)


def test_the_units_of_a_transformers_conv1d_are_its_columns():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 9))
            self.bias = nn.Parameter(torch.zeros(9))

    layer = Conv1D()
    assert unit_dims(layer)(layer.weight) == Units((1,))
    assert unit_dims(layer)(layer.bias) == Units((0,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_small_factor_is_not_rounded_to_half_precision(dtype):
    weight = torch.full((1, 64), 1e-3, dtype=dtype, requires_grad=True)
    weight.grad = torch.full_like(weight, 500.0)
    agc([weight], clipping=1.0)
    torch.testing.assert_close(weight.grad, weight.detach(), rtol=0.01, atol=0)


@pytest.mark.parametrize("bad", [{"clipping": 0.0}, {"clipping": -1.0}, {"eps": 0.0}, {"eps": float("nan")}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"clip.agc: {next(iter(bad))} must be above 0"):
        agc([], **bad)
