"""What a layer gives, judged where the next one takes it: against explicit loops, in every way of writing."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from tonsor.prune import apoz, collect, hrank, mean_activation, needs, output_variance, slimming

ACTIVATIONS = [mean_activation, apoz, output_variance]


def scored(importance, model, inputs, weight="conv.weight"):
    """Return the score of each output channel, after a look that all its weights have the same."""
    names = needs(importance)
    stats = collect(model, [(x, None) for x in inputs], names=names, weights=[weight])[weight]
    value = model.get_parameter(weight)
    scores = importance(value, *[stats[name] for name in names])
    rows = scores.flatten(1)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0].double().numpy()


def oracle(importance, maps):
    """Return the score of each channel of `(samples, channels, ...)` from all its values at once."""
    channels = [maps[:, c].ravel() for c in range(maps.shape[1])]
    measure = {
        mean_activation: lambda v: np.abs(v).mean(),
        apoz: lambda v: 1 - (v == 0).mean(),
        output_variance: np.var,
    }[importance]
    return [measure(values.astype(np.float64)) for values in channels]


class Net(nn.Module):
    """Convolve, normalise and rectify, in one of the ways people write it."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.weight.data = torch.tensor([0.5, -1.0, 2.0, 0.1])

    def forward(self, x):
        return getattr(self, self.how)(self.conv(x))

    def modules_in_place(self, x):
        return self.act(self.norm(x)).flatten(1)

    def functional(self, x):
        x = nn.functional.batch_norm(
            x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
        )
        return nn.functional.relu(x).sum((2, 3))

    def functional_in_place(self, x):
        x = nn.functional.relu(input=self.norm(x), inplace=True)
        x += 1  # no longer the layer's alone
        return x

    def methods(self, x):
        return torch.max_pool2d(self.norm(x).relu_(), 2) - 1

    def looked_at(self, x):
        shape, mean = x.shape, x.mean()  # looking at a value does not stop it
        return self.norm(x).clamp(min=0).view(shape) * mean

    def dropped(self, x):
        return nn.functional.dropout(torch.relu(self.norm(x)), training=self.training)


WAYS = ["modules_in_place", "functional", "functional_in_place", "methods", "looked_at", "dropped"]


@pytest.mark.parametrize("importance", ACTIVATIONS)
@pytest.mark.parametrize("way", WAYS)
def test_a_convolution_is_judged_behind_its_norm_and_relu(importance, way):
    torch.manual_seed(0)
    model, inputs = Net(way), [torch.randn(n, 2, 6, 5) for n in (3, 2)]
    maps = torch.relu(model.norm.eval()(model.conv(torch.cat(inputs)))).detach().numpy()
    np.testing.assert_allclose(scored(importance, model, inputs), oracle(importance, maps), rtol=1e-4)
    assert not _get_current_function_mode_stack()


class Residual(nn.Module):
    """Add the input in place, then rectify."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        out = self.norm(self.conv(x))
        out += x
        return nn.functional.relu(out)


def test_what_is_added_in_place_is_not_counted():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(4, 3, 5, 5)
    maps = model.norm.eval()(model.conv(x)).detach().numpy()
    np.testing.assert_allclose(scored(mean_activation, model, [x]), oracle(mean_activation, maps), rtol=1e-5)


class Twice(nn.Module):
    """Call one layer two times."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(3, 3)

    def forward(self, x):
        return torch.tanh(self.conv(nn.functional.gelu(self.conv(x))))


@pytest.mark.parametrize("importance", ACTIVATIONS)
def test_a_layer_called_twice_is_judged_over_both_calls_and_all_tokens(importance):
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 7, 3)
    first = nn.functional.gelu(model.conv(x))
    both = torch.cat([first, torch.tanh(model.conv(first))]).detach().movedim(-1, 1).numpy()
    np.testing.assert_allclose(scored(importance, model, [x]), oracle(importance, both), rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("places", [1, 2, 3])
def test_a_transposed_convolution_has_its_outputs_second(groups, places):
    torch.manual_seed(0)
    kind = getattr(nn, f"ConvTranspose{places}d")
    model = nn.Sequential(kind(4, 6, 2, groups=groups), nn.ReLU())
    x = torch.randn(3, 4, *[3] * places)
    values = oracle(mean_activation, model(x).detach().numpy())
    found = collect(model, [(x, None)], names=needs(mean_activation))["0.weight"]["activation_mean"]
    weight = model[0].weight
    for place in np.ndindex(*weight.shape[:2]):
        out = place[0] // (4 // groups) * weight.shape[1] + place[1]
        np.testing.assert_allclose(found.expand_as(weight)[place].numpy(), values[out], rtol=1e-5)


@pytest.mark.parametrize("places", [0, 1, 2, 3])
def test_an_input_without_a_batch_has_the_same_channels(places):
    torch.manual_seed(0)
    layer = getattr(nn, f"Conv{places}d")(2, 3, 2) if places else nn.Linear(2, 3)
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(1, 2, *[4] * places)
    gathered = [collect(model, [(data, None)], names=["activation_mean"]) for data in (x, x[0])]
    torch.testing.assert_close(*gathered)


def test_rank_is_the_mean_over_samples_of_each_map():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU())
    inputs = [torch.randn(n, 1, 8, 7).relu() for n in (2, 3)]
    inputs[1][0] = 1.0  # a constant map
    maps = model(torch.cat(inputs)).detach().numpy()
    ranks = [np.mean([np.linalg.matrix_rank(m) for m in maps[:, c]]) for c in range(3)]
    np.testing.assert_allclose(scored(hrank, model, inputs, "0.weight"), ranks)
    assert len(set(ranks)) > 1


def test_a_linear_layer_has_no_map():
    with pytest.raises(ValueError, match=r"'activation_rank' is not defined for 'weight' of Linear"):
        collect(nn.Linear(2, 2), [(torch.ones(1, 2), None)], names=["activation_rank"])


class Crossed(nn.Module):
    """Hold norms in another order than layers are called, and a layer that has none."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(2, 6), nn.BatchNorm2d(4), nn.LayerNorm(5)])
        for norm in self.norms:
            nn.init.normal_(norm.weight)
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 1)
        self.third, self.last = nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x):
        x = nn.functional.relu(self.norms[1](self.first(x)))
        x = self.norms[0](nn.functional.silu(self.second(x)))
        return self.last(self.norms[2](self.third(x.mean((2, 3)))))


def test_slimming_finds_the_norm_that_the_output_runs_into():
    torch.manual_seed(0)
    model, x = Crossed(), torch.randn(2, 2, 3, 3)
    for name, place in (("first", 1), ("second", 0), ("third", 2)):
        scores = scored(slimming, model, [x], f"{name}.weight")
        np.testing.assert_allclose(scores, model.norms[place].weight.detach().abs().numpy(), rtol=1e-6)


def test_a_layer_without_a_norm_is_named():
    with pytest.raises(ValueError, match=r"'norm_scale'.*'last.weight' of Linear: no normalisation"):
        scored(slimming, Crossed(), [torch.randn(2, 2, 3, 3)], "last.weight")


def test_a_norm_over_another_dimension_is_not_taken():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))  # whose channels are the tokens
    with pytest.raises(ValueError, match="no normalisation with one scale a channel"):
        scored(slimming, model, [torch.randn(2, 3, 4)], "0.weight")


def test_a_layer_that_is_not_called_is_named():
    model = nn.Sequential(nn.Linear(2, 2))
    model.idle = nn.Identity()
    model.idle.inner = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'idle.inner.weight' of Linear: it was not called"):
        collect(model, [(torch.ones(1, 2), None)], names=["activation_mean"])


def test_an_encoder_is_watched_in_eval_mode_behind_its_activation():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")
    x, seen = torch.randn(2, 3, 4), []
    hook = model.linear2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores = scored(mean_activation, model, [x], "linear1.weight")
    hook.remove()
    maps = seen[0].detach().movedim(-1, 1).numpy()
    np.testing.assert_allclose(scores, oracle(mean_activation, maps), rtol=1e-5)
