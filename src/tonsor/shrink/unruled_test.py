"""What has no rule freezes what it touches, is named, and breaks nothing: the rest still shrinks."""

import copy

import pytest
import torch
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.tensors import apply_masks_


class Between(nn.Module):
    """Something stands between two layers; behind them two more, which always shrink."""

    def __init__(self, between, *modules, width=8):
        super().__init__()
        self.first, self.between = nn.Linear(4, 8), between
        self.inner = nn.ModuleList(modules)
        self.second, self.last = nn.Linear(width, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = self.between(torch.tanh(self.first(x)), *self.inner)
        return self.last(torch.relu(self.second(h)))


CASES = {
    "lstm": (
        lambda: Between(lambda h, m: m(h)[0], nn.LSTM(8, 5, batch_first=True, proj_size=3), width=3),
        "aten.lstm in inner.0: a projection of the hidden units",
    ),
    "distance": (
        lambda: Between(lambda h: h * nn.functional.pairwise_distance(h, 2 * h)[..., None]),
        "aten.pairwise_distance",
    ),
    "einsum": (
        lambda: Between(lambda h: torch.einsum("bsii->bsi", h[..., None] * h[..., None, :])),
        "a diagonal",
    ),
    "fourier": (lambda: Between(lambda h: torch.fft.fft(h).real), "aten.fft_fft"),
    "noise": (lambda: Between(lambda h: h + torch.randn_like(h)), "aten.randn_like"),
    "dropout": (lambda: Between(lambda h: nn.functional.dropout(h, 0.5, True)), "it draws random numbers"),
    "norm": (
        lambda: Between(lambda h: h / torch.linalg.vector_norm(h, 0, -1, keepdim=True)),
        "zeros count in it",
    ),
    "softmax": (lambda: Between(lambda h: h.softmax(-1)), "aten.softmax"),
    "positions": (lambda: Between(lambda h: h.roll(1, -1)), "aten.roll"),
    "parts": (lambda: Between(lambda h: h[..., ::3], width=3), "aten.slice"),
    "unfold": (lambda: Between(lambda h: h.unfold(-1, 5, 5)[..., 0, :], width=5), "aten.unfold"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rest_shrinks_and_the_operation_is_named(name):
    make, reason = CASES[name]
    torch.manual_seed(0)
    model, example = make().eval(), torch.randn(2, 3, 4)
    groups = channel_groups(model, example)
    assert any(reason in group.reason for group in groups.frozen)
    assert reason in str(groups)
    assert "first.weight" not in groups.groups
    keep = {group: torch.arange(g.units) % 2 == 0 for group, g in groups.groups.items()}
    masks = groups.expand(keep, dict(model.named_parameters()))
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    shrunk = shrink_(model, groups, masks)
    assert shrunk.removed == {"second.weight": [1, 3, 5]}
    x = torch.randn(2, 3, 4)
    torch.manual_seed(1)
    got = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(got, masked(x), rtol=1e-4, atol=1e-5)


def test_learned_positions_stay_and_the_channels_they_are_added_to_do_not():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 2, 1)
            self.map = nn.Parameter(torch.randn(1, 1, 4, 4))

        def forward(self, x):
            return self.c(torch.relu(self.b(self.a(x) + self.map)))

    groups = channel_groups(Placed(), torch.randn(1, 2, 4, 4))
    assert list(groups.groups) == ["a.weight", "b.weight"]
    assert {g.name for g in groups.frozen} >= {"map dim 2", "map dim 3"}


def test_a_token_put_before_others_loses_the_channels_they_lose():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.token = nn.Parameter(torch.randn(1, 1, 4))
            self.place = nn.Parameter(torch.randn(1, 10, 4))

        def forward(self, x):
            both = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
            return self.head(both + self.place)

    groups = channel_groups(Tokens(), torch.randn(2, 9, 3)).groups
    assert groups["embed.weight"].units == 4
    assert {part.parameter for part in groups["embed.weight"].slices} >= {"token", "place", "head.weight"}


def test_a_rule_that_fails_freezes_in_both_runs(monkeypatch):
    from tonsor.shrink import RULES

    def broken(call, labels, /):
        raise IndexError("not foreseen")

    monkeypatch.setitem(RULES, "aten.tanh", broken)
    model = Between(lambda h: h)
    groups = channel_groups(model, torch.randn(2, 3, 4))
    assert "no rule for aten.tanh" in {group.reason for group in groups.frozen}
    model.second.weight.data[2] = 0.0
    model.second.bias.data[2] = -1.0
    assert shrink_(model, groups).removed == {"second.weight": [2]}


def test_a_rule_that_gives_a_wrong_shape_is_no_rule(monkeypatch):
    from tonsor.shrink import RULES

    def wrong(call, labels, /):
        return call.first()

    monkeypatch.setitem(RULES, "aten.mean", wrong)
    model = Between(lambda h: h.mean(1))
    groups = channel_groups(model, torch.randn(2, 3, 4))
    assert "no rule for aten.mean" in {group.reason for group in groups.frozen}
