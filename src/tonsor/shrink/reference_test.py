"""A cut inside norms against masked norms written by hand: every sum is weighted by what stays."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink import channel_groups, load, save, shrink_
from tonsor.shrink.labels import MEASURED
from tonsor.shrink.nets_mixer_test import Pool
from tonsor.shrink.nets_parts_test import Vit
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow

WIDTH = 12


def mean(x, stays, dims=-1):
    """Return the mean of what stays, as a weighted sum: the definition."""
    return (x * stays).sum(dims, keepdim=True) / stays.expand_as(x).sum(dims, keepdim=True)


def standard(x, stays, dims=-1):
    """Return the tensor normalised by mean and variance of what stays."""
    middle = mean(x, stays, dims)
    return (x - middle) / (mean((x - middle) ** 2, stays, dims) + 1e-5).sqrt()


def by_hand(x):
    """Normalise as many models do: in single steps."""
    middle = x.mean(-1, keepdim=True)
    return (x - middle) / ((x - middle).pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def by_root(x):
    """Normalise by the root of the mean square, in single steps."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def by_both(x):
    """Normalise by variance and mean from one call."""
    variance, middle = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
    return (x - middle) * torch.rsqrt(variance + 1e-5)


def squares(x, stays):
    """Return the tensor over the root of the mean square of what stays."""
    return x / (mean(x**2, stays) + 1e-5).sqrt()


def deviations(x, stays):
    """Return the tensor over the standard deviation of what stays, of n - 1."""
    count = stays.sum()
    return x / (mean((x - mean(x, stays)) ** 2, stays) * count / (count - 1)).sqrt()


def alone(x, norm):
    """Normalise as images are: the channels come first."""
    return norm(x.mT[..., None])[..., 0].mT


# What stands in the model, and the same with weights of 1 and 0 for what stays and what goes.
NORMS = {
    "layer norm": (lambda x: F.layer_norm(x, x.shape[-1:]), standard),
    "rms norm": (lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-5), squares),
    "layer norm in steps": (by_hand, standard),
    "rms norm in steps": (by_root, squares),
    "var_mean": (by_both, standard),
    "std": (lambda x: x / x.std(-1, keepdim=True), deviations),
    "group norm": (
        lambda x: alone(x, lambda y: F.group_norm(y, 1)),
        lambda x, stays: standard(x, stays, (-2, -1)),
    ),
    "response norm": (
        lambda x: x + x * (g := x.norm(dim=1, keepdim=True)) / (g.mean(-1, keepdim=True) + 1e-6),
        lambda x, stays: x + x * (g := x.norm(dim=1, keepdim=True)) / (mean(g, stays) + 1e-6),
    ),
}


class Stream(nn.Module):
    """A residual stream whose width goes through a norm."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        self.up, self.down = nn.Linear(WIDTH, 7), nn.Linear(7, WIDTH)
        self.scale, self.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.norm = norm

    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(torch.tanh(self.up(self.norm(x) * self.scale + self.shift)))
        return self.head(self.norm(x))


def halves(model, groups, every=2):
    """Return masks for all parameters that remove each second unit, and which units of the first stay."""
    keep = {name: torch.arange(group.units) % every > 0 for name, group in groups.groups.items()}
    return groups.expand(keep, dict(model.named_parameters())), next(iter(keep.values()))


CASES = [(name, biased) for name in NORMS for biased in (True, False)]


@pytest.mark.parametrize(("name", "biased"), CASES)
def test_statistics_are_those_of_what_stays_and_nothing_else_changes(name, biased):
    torch.manual_seed(0)
    norm, masked_norm = NORMS[name]
    model, x = Stream(norm).double(), torch.randn(5, 6, 4).double()
    assert list(channel_groups(model, x).groups) == ["up.weight"]
    groups = channel_groups(model, x, width=True)
    assert {name: group.units for name, group in groups.groups.items()} == {"stem.weight": 12, "up.weight": 7}
    masks, stays = halves(model, groups)
    if not biased:  # what writes to a channel that goes still does so, but nobody reads it
        masks = {key: mask for key, mask in masks.items() if mask.ndim > 1}
    oracle = copy.deepcopy(model)
    apply_masks_(dict(oracle.named_parameters()), masks)
    oracle.norm = lambda x: masked_norm(x, stays.double())
    shrunk = shrink_(model, groups, masks)
    assert shrunk.removed["stem.weight"] == (~stays).nonzero().flatten().tolist()
    assert shrunk.max_difference <= 1e-12
    assert shrunk.narrowed
    fresh = 3 * torch.randn(5, 6, 4).double() + 1
    torch.testing.assert_close(model(fresh), oracle(fresh), rtol=1e-11, atol=1e-11)


class Standardised(nn.Module):
    """Convolutions whose weights are standardised over what they read."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3, bias=False), nn.Linear(6, 2)

    def weight(self, layer, stays):
        weight = layer.weight
        if stays is None:
            return F.batch_norm(weight.flatten(1)[None], None, None, training=True).reshape(weight.shape)
        return standard(weight, stays.view(1, -1, 1, 1), (1, 2, 3))

    def forward(self, x, stays=None):
        x = torch.relu(F.conv2d(x, self.weight(self.a, None), self.a.bias))
        return self.head(F.conv2d(x, self.weight(self.b, stays)).mean((2, 3)))


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_standardised_weights_are_standardised_over_what_is_still_read(bias):
    torch.manual_seed(0)
    model, x = Standardised().double(), torch.randn(2, 2, 7, 7).double()
    assert "a.weight" not in channel_groups(model, x).groups
    model.a.bias.data.abs_()
    groups = channel_groups(model, x, width=True)
    masks, stays = halves(model, groups)
    if bias:  # a channel that is a constant beside zero: its reader has no bias to take it
        masks = {key: mask for key, mask in masks.items() if key != "a.bias"}
    oracle = copy.deepcopy(model)
    apply_masks_(dict(oracle.named_parameters()), masks)
    shrunk = shrink_(model, groups, masks)
    assert ("a.weight" in shrunk.removed) is not bool(bias)
    fresh = torch.randn(2, 2, 7, 7).double()
    left = stays.double() if not bias else torch.ones(8).double()
    torch.testing.assert_close(model(fresh), oracle(fresh, left), rtol=1e-11, atol=1e-11)


def test_what_only_a_statistic_reads_stays_and_so_does_what_leaves_the_model():
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)

        def forward(self, x):
            return self.b(x) * self.a(x).std(-1, keepdim=True)

    frozen = channel_groups(Loud(), torch.randn(3, 4), width=True).frozen
    assert {group.name: group.reason for group in frozen}["a.weight"] == MEASURED
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    assert channel_groups(model, torch.randn(3, 4), width=True).groups == {}


def test_a_vit_loses_width_heads_and_units_with_its_class_token_and_positions_and_is_loaded(tmp_path):
    torch.manual_seed(0)
    model, x = Vit(n=1), torch.randn(2, 3, 16, 16)
    groups = channel_groups(model, x, width=True)
    stream = groups.groups["p.weight"]
    assert {"cls", "pos", "n.weight", "n.bias", "h.weight"} <= {part.parameter for part in stream.slices}
    masks, stays = halves(model, groups)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(x).sum().backward()
    optimizer.step()
    oracle = copy.deepcopy(model).eval()
    apply_masks_(dict(oracle.named_parameters()), masks)
    for module in oracle.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = lambda x, own=module: standard(x, stays.float()) * own.weight + own.bias
    shrunk = shrink_(model, groups, masks, optimizer)
    assert model.pos.shape == (1, 17, 8)
    assert optimizer.state[model.pos]["exp_avg"].shape == model.pos.shape
    assert shrunk.narrowed == tuple(f"aten.layer_norm in {n}" for n in ("b.0.n1", "b.0.n2", "n"))
    torch.testing.assert_close(model.eval()(x), oracle(x), rtol=1e-4, atol=1e-5)
    save(model, tmp_path / "small.safetensors", plan=shrunk.plan)
    again = load(Vit(n=1), tmp_path / "small.safetensors", x).eval()
    assert torch.equal(again(x), model(x))


def test_a_norm_over_one_group_of_image_channels_keeps_one_group():
    torch.manual_seed(0)
    model, x = Pool().double(), torch.randn(2, 3, 16, 16).double()
    groups = channel_groups(model, x, width=True)
    masks, _ = halves(model, groups)
    assert shrink_(model, groups, masks).max_difference < 1e-12
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert norms
    assert {(norm.num_groups, norm.num_channels) for norm in norms} == {(1, norms[0].weight.shape[0])}


def test_a_number_that_is_two_sizes_of_one_layer_becomes_that_of_its_output():
    class Turned(nn.Module):
        """A layer that remembers both of its sizes, as in GPT-2; they were equal."""

        def __init__(self, reads, makes):
            super().__init__()
            self.weight, self.reads, self.makes = nn.Parameter(torch.randn(reads, makes)), reads, makes

        def forward(self, x):
            return (x.view(-1, x.shape[-1]) @ self.weight).view(*x.shape[:-1], self.makes)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Turned(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    groups = channel_groups(model, torch.randn(3, 5, 4).double())
    keep = {name: torch.arange(8) % size > 0 for name, size in (("0.weight", 2), ("2.weight", 4))}
    shrunk = shrink_(model, groups, groups.expand(keep, dict(model.named_parameters())))
    assert shrunk.rewritten == ""
    assert model[2].weight.shape == (4, model[2].makes) == (4, 6)
