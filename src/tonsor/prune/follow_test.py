"""Where an output is judged: behind what belongs to it, before what does not."""

import pytest
import torch
from torch import nn

from tonsor.prune import collect
from tonsor.prune.follow import Following

HANDMADE = {
    "swish": lambda x: x * torch.sigmoid(x),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh gelu": lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0)))),
    "erf gelu": lambda x: x * 0.5 * (1.0 + torch.erf(x / 1.4142135624)),
    "in place": lambda x: x.mul_(torch.sigmoid(x)),
    "none": lambda x: x,
    "twice": lambda x: torch.tanh(torch.relu(x)),
}


class Written(nn.Module):
    """Apply any function behind a layer, then use the result in other ways."""

    def __init__(self, act):
        super().__init__()
        self.layer, self.act = nn.Linear(3, 4), act

    def forward(self, x):
        gate = self.act(self.layer(x))
        self.penalty = gate.abs().mean()
        return gate * 3.0 + (1 - gate) * torch.ones_like(gate)


def sizes(model, x, *more):
    return collect(model, [(x, None)], names=["activation_mean", *more])


@pytest.mark.parametrize("act", HANDMADE.values(), ids=HANDMADE)
def test_a_nonlinearity_is_seen_however_it_is_written_and_what_is_done_with_it_is_not(act):
    torch.manual_seed(0)
    model, x = Written(act), torch.randn(5, 3)
    expected = act(model.layer(x)).detach().abs().mean(0).unsqueeze(1)
    torch.testing.assert_close(sizes(model, x)["layer.weight"]["activation_mean"], expected)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_pool_may_stand_before_the_nonlinearity_and_counts_only_there(pool, is_first):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 8, 8)
    model = nn.Sequential(conv, pool, nn.ReLU()) if is_first else nn.Sequential(conv, nn.ReLU(), pool)
    judged = torch.relu(pool(conv(x)) if is_first else conv(x)).detach()
    found = sizes(model, x)["0.weight"]["activation_mean"].flatten()
    torch.testing.assert_close(found, judged.mean((0, 2, 3)))


def test_a_change_of_type_is_seen_through():
    torch.manual_seed(0)
    model, x = Written(lambda x: torch.relu(x.double()).to(x.dtype)), torch.randn(5, 3)
    expected = torch.relu(model.layer(x)).detach().mean(0).unsqueeze(1)
    torch.testing.assert_close(sizes(model, x)["layer.weight"]["activation_mean"], expected)


class Sum(nn.Module):
    """Join two calls of one layer, and a second layer, by arithmetic."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        first, second, third = self.layer(x), self.layer(-x), self.other(x)
        return torch.relu(first * second) + first * torch.relu(third)


def test_two_outputs_that_meet_are_judged_before_they_do():
    torch.manual_seed(0)
    model, x = Sum(), torch.randn(5, 3)
    both = torch.cat([model.layer(x), model.layer(-x)])
    found = sizes(model, x)
    torch.testing.assert_close(
        found["layer.weight"]["activation_mean"], both.detach().abs().mean(0).unsqueeze(1)
    )
    torch.testing.assert_close(
        found["other.weight"]["activation_mean"],
        torch.relu(model.other(x)).detach().abs().mean(0).unsqueeze(1),
    )


def test_statistics_that_follow_at_once_find_what_each_finds_alone():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU()), torch.randn(5, 3)
    names = ["activation_zeros", "norm_scale", "activation_variance"]
    together = sizes(model, x, *names)["0.weight"]
    for name in together:
        alone = collect(model, [(x, None)], names=[name])["0.weight"][name]
        assert torch.equal(alone, together[name])


@pytest.mark.parametrize(
    "write", [lambda x: x.add_(1), lambda x: x.__setitem__(0, 9.0), lambda x: x.mul_(3), lambda x: x.zero_()]
)
def test_an_output_that_is_written_over_is_handed_out_before(write):
    said = []
    following = Following(lambda name, tensor: said.append((name, tensor.tolist())))
    with following:
        x = torch.tensor([-1.0, 2.0])
        following.start("layer", x)
        following.start("same", x)
        write(x)
    assert said == [("layer", [-1.0, 2.0]), ("same", [-1.0, 2.0])]
    following.finish()
    assert len(said) == 2


def test_an_exported_operator_is_known_by_the_same_name():
    said = []
    following = Following(lambda name, tensor: said.append(tensor.tolist()))
    with following:
        x = torch.tensor([-1.0, 2.0])
        following.start("layer", x)
        torch.ops.aten.relu.default(x)
    following.finish()
    assert said == [[0.0, 2.0]]
