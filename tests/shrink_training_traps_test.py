"""Traps of structured pruning in what a training run holds, each seen in a tool that people use."""

import pytest
import torch
from torch import nn

from cutting import X, conv_net, cut, weights
from tonsor.prune import find_masks
from tonsor.prune.scopes import across, local
from tonsor.shrink import channel_groups, load, save, shrink_, shrink_to


def test_the_model_stays_in_its_mode():
    for training in (True, False):
        model = conv_net().train(training)
        model[1].training = not training
        flags = [module.training for module in model.modules()]
        channel_groups(model, X)
        cut(model, X)
        shrink_to(model, X, macs=0.7)
        assert [module.training for module in model.modules()] == flags


def test_frozen_parameters_stay_frozen_and_the_others_do_not_become_so():
    model = conv_net()
    model[0].weight.requires_grad_(False)
    model[5].bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    cut(model, X)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_the_optimizer_goes_on_with_every_parameter():
    model = conv_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())
        if model[0].out_channels == 8:
            cut(model, X, optimizer=optimizer)
        before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(moved)


class TiedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + self.down(torch.relu(self.up(x))))


def test_tied_weights_stay_tied():
    model = TiedNet()
    told, small, masked = cut(model, torch.arange(6).view(2, 3))
    assert model.head.weight is model.embed.weight
    assert told.removed["embed.weight"]
    torch.testing.assert_close(small, masked)


def test_nothing_leaks_from_one_model_to_the_next():
    first = channel_groups(conv_net(), X).limited(ignore=["0.weight"], multiple_of=4, most={"*": 0.5})
    shrink_to(conv_net(), X, groups=first, params=0.8)
    second = channel_groups(conv_net(), X)
    assert list(second.groups) == ["0.weight", "3.weight"]
    assert second.limits.allowed("0.weight", 8) == [1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [group.reason for group in second.frozen] == ["model input", "model output"]


def test_what_is_saved_needs_no_pickle_and_loads_into_a_fresh_model(tmp_path):
    model = conv_net()
    told, _, _ = cut(model, X)
    save(model, tmp_path / "small.safetensors", plan=told.plan)
    assert b"pickle" not in (tmp_path / "small.safetensors").read_bytes()
    again = load(conv_net(), tmp_path / "small.safetensors")
    assert torch.equal(again.eval()(X), model.eval()(X))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    model.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


@pytest.mark.parametrize("scope", [local, across])
def test_ties_at_the_threshold_leave_the_count_exact(scope):
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    for weight in model.parameters():
        nn.init.constant_(weight, 0.5)
    groups = channel_groups(model, torch.ones(1, 4)).scored(reduction="mean", normalise="mean")
    units = groups.reduce(weights(model))
    keep = scope(units, 0.5)
    assert sum(int(k.sum()) for k in keep.values()) == 24
    if scope is local:
        shrink_(model, groups, groups.expand(keep, weights(model)))
        assert (model[0].out_features, model[2].out_features) == (8, 16)


def test_a_round_number_is_the_nearest_and_not_the_one_below():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    groups = channel_groups(model, torch.ones(1, 4)).limited(multiple_of=16)
    assert find_masks(weights(model), 0.1, pattern=groups)["0.weight"].all()
    shrink_(model, groups, find_masks(weights(model), 0.4, pattern=groups))
    assert model[0].out_features == 16
