"""Traps of structured pruning in what a model computes, each seen in a tool that people use."""

import copy
import time

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own examples have it
from torch import nn

from cutting import X, conv_net, cut, weights
from tonsor.prune import collect, find_masks, taylor
from tonsor.shrink import channel_groups, shrink_
from tonsor.tensors import apply_masks_


class Moved(nn.Module):
    """Channels change their places between two layers."""

    def __init__(self, move):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1)
        self.move = move

    def forward(self, x):
        return self.c(torch.relu(self.move(self.b(self.move(self.a(x))))))


def shuffled(x):
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    "move",
    [shuffled, lambda x: x.flip(1), lambda x: x.roll(1, 1), lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 1)],
)
def test_channels_that_are_shuffled_flipped_or_rolled_are_cut_right(move):
    model = Moved(move).double()
    _, small, masked = cut(model, X.double())
    torch.testing.assert_close(small, masked, rtol=1e-10, atol=1e-10)


class PixelNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.c(F.pixel_shuffle(self.b(torch.relu(self.a(x))), 2))


class RawNet(nn.Module):
    """Raw parameters in einsum, and a product with a transposed matrix."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(5, 8))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.relu(torch.einsum("bchw,wd->bchd", x, self.a)) @ self.b.T)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.rnn, self.head = nn.Linear(6, 8), nn.GRU(8, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.rnn(self.a(x.flatten(1, 2)))[0])


def normed():
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1)),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.Conv2d(4, 2, 1),
    )


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.a, self.encoder = nn.Linear(6, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.encoder(self.a(x.flatten(1, 2))))


@pytest.mark.parametrize("make", [PixelNet, RawNet, Recurrent, normed, Encoder])
def test_what_others_raise_on_is_shrunk_or_says_why_it_stays(make):
    torch.manual_seed(0)
    model = make().double()
    groups = channel_groups(model, X.double())
    told, small, masked = cut(model, X.double())
    torch.testing.assert_close(small, masked, rtol=1e-9, atol=1e-9)
    assert told.after < told.before or not groups.groups
    assert all(group.reason for group in groups.frozen)


class Attended(nn.Module):
    """Attention whose keys and values may have fewer heads, and a gated feed-forward."""

    def __init__(self, shared):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 16 // shared), nn.Linear(8, 16 // shared)
        self.gate, self.up = nn.Linear(8, 12), nn.Linear(8, 12)
        self.o, self.down = nn.Linear(16, 8), nn.Linear(12, 8)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + self.o(h.transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize(("shared", "heads"), [(1, 4), (2, 2)])
def test_heads_are_cut_when_they_alone_are_asked_for_also_where_they_share_keys(shared, heads):
    """A head is one unit of its group; keys and values go with the queries that share them."""
    model, x = Attended(shared).double(), torch.randn(2, 5, 8).double()
    groups = channel_groups(model, x).limited(only=["heads"])
    assert {name: group.units for name, group in groups.groups.items()} == {"q.weight": heads}
    masks = find_masks(weights(model), 0.5, pattern=groups)
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    shrink_(model, groups, masks)
    assert (model.q.out_features, model.k.out_features, model.up.out_features) == (8, 8 // shared, 12)
    torch.testing.assert_close(model(x + 1), masked(x + 1))
    without = channel_groups(model, x).limited(only=["inner"])
    assert list(without.groups) == ["gate.weight"]


def test_a_constant_channel_goes_into_the_bias_of_who_reads_it():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False)
    ).double()
    with torch.no_grad():
        model[1].weight[:] = torch.tensor([1.0, 0.0, 1.0, 1.0])
        model[1].bias.fill_(0.7)
    x = X.double()
    expected = model.eval()(x)
    assert shrink_(model, channel_groups(model, x)).removed == {"0.weight": [1]}
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("act", [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid(), nn.ELU()])
def test_a_dead_neuron_behind_an_activation_that_is_not_zero_at_zero_changes_nothing(act):
    model = nn.Sequential(nn.Linear(6, 5), act, nn.Linear(5, 2)).double()
    with torch.no_grad():
        model[0].weight[3] = 0.0
        model[0].bias[3] = 0.0
    x = torch.randn(4, 6).double()
    expected = model(x)
    assert shrink_(model, channel_groups(model, x)).removed == {"0.weight": [3]}
    torch.testing.assert_close(model(x), expected)


def test_statistics_are_those_of_all_batches_and_hooks_are_gone_after_an_error():
    model, loss = conv_net().eval(), nn.functional.cross_entropy
    halves = [(X[:2], torch.tensor([0, 1])), (X[2:], torch.tensor([1, 0]))]
    names, own = ["gradient"], weights(model)
    both = collect(model, halves, names=names, weights=own, loss=loss)
    last = collect(model, halves[1:], names=names, weights=own, loss=loss)
    assert not torch.equal(
        taylor(own["0.weight"], both["0.weight"]["gradient"]),
        taylor(own["0.weight"], last["0.weight"]["gradient"]),
    )
    with pytest.raises(RuntimeError):
        collect(model, [(X[:, :2], None)], names=["input_norm"], weights=own, loss=loss)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_of_the_model_itself_is_told_and_not_swallowed():
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("no such vocabulary")

    with pytest.raises(ValueError, match=r"Broken cannot be exported: .*no such vocabulary"):
        channel_groups(Broken(), X)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.GroupNorm(1, 8), nn.RMSNorm(8)])
def test_a_norm_over_channels_never_changes_what_stays(norm):
    """Its mean is over all channels: to cut some would change the others, silently."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b, self.c = nn.Linear(6, 8), norm, nn.Linear(8, 10), nn.Linear(10, 2)

        def forward(self, x):
            return self.c(torch.relu(self.b(self.norm(self.a(x)))))

    model = Net().double()
    told, small, masked = cut(model, torch.randn(5, 6).double())
    torch.testing.assert_close(small, masked, rtol=1e-9, atol=1e-9)
    assert len(told.removed["b.weight"]) == 5


def test_many_splits_and_joins_take_neither_long_nor_much():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(16, 64, 1) for _ in range(12))
            self.first, self.last = nn.Conv2d(3, 64, 1), nn.Linear(64, 2)

        def forward(self, x):
            x = self.first(x)
            for conv in self.convs:
                parts = list(x.chunk(4, 1))
                parts[1] = parts[1] + parts[0]
                parts[2] = parts[2] * torch.sigmoid(parts[1])
                x = torch.relu(conv(parts[2])) + torch.cat(parts, 1)
            return self.last(x.mean((2, 3)))

    model = Split()
    start = time.process_time()
    _, small, masked = cut(model, X)
    assert time.process_time() - start < 20
    torch.testing.assert_close(small, masked, rtol=1e-4, atol=1e-5)
