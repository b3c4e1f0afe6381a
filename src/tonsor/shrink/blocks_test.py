import copy

import pytest
import torch
from torch import nn

from tonsor.shrink import block_influence, remove_blocks_, residual_blocks
from tonsor.shrink.nets_test import Residual


class Layer(nn.Module):
    """A pre-norm block of two branches that returns more than a tensor."""

    def __init__(self, size=8, *, strength=1.0, post=False):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.mix, self.up, self.down = nn.Linear(size, size), nn.Linear(size, 16), nn.Linear(16, size)
        self.strength, self.post = strength, post

    def forward(self, x, *, scale=1.0):
        x = x + self.strength * self.mix(self.n1(x)) * scale
        x = x + self.strength * self.down(torch.relu(self.up(self.n2(x))))
        return (self.n1(x) if self.post else x), None


class Stack(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.embed, self.layers, self.head = nn.Embedding(11, 8), nn.ModuleList(layers), nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, scale=0.5)[0]
        return self.head(x)


TOKENS = torch.arange(8).view(2, 4)


def stack():
    torch.manual_seed(0)
    return Stack(Layer(), Layer(strength=0.01), Layer(strength=0.3)).double()


def test_blocks_are_found_with_their_cost_and_the_weakest_has_the_least_influence():
    model = stack()
    found = residual_blocks(model, TOKENS)
    assert list(found.blocks) == ["layers.0", "layers.1", "layers.2"]
    block = found.blocks["layers.0"]
    assert (block.params, block.macs) == (32 + 72 + 144 + 136, 8 * (64 + 128 + 128))
    influence = block_influence(model, found, [TOKENS, {"tokens": TOKENS + 1}])
    assert sorted(influence, key=influence.get) == ["layers.1", "layers.2", "layers.0"]


def test_influence_is_the_mean_over_all_batches_not_of_the_last_and_hooks_are_gone():
    model = stack()
    found = residual_blocks(model, TOKENS)
    apart = []
    for tokens in (TOKENS, TOKENS + 2):
        x = model.embed(tokens)
        y = model.layers[0](x, scale=0.5)[0]
        apart.append((1 - nn.functional.cosine_similarity(x, y, dim=-1)).flatten())
    told = block_influence(model, found, [TOKENS, TOKENS + 2])
    assert told["layers.0"] == pytest.approx(torch.cat(apart).mean().item())
    with pytest.raises(IndexError):
        block_influence(model, found, [TOKENS + 100])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
    with pytest.raises(ValueError, match="there was no batch"):
        block_influence(model, found, [])


def test_a_model_without_a_block_computes_what_it_does_with_the_branches_at_zero():
    model = stack()
    masked = copy.deepcopy(model)
    masked.layers[1].strength = 0.0
    found = residual_blocks(model, TOKENS)
    removed = remove_blocks_(model, found, ["layers.1"])
    assert torch.equal(model(TOKENS + 1), masked(TOKENS + 1))
    assert removed.max_difference < 1e-12
    assert removed.before - removed.after == found.blocks["layers.1"].params
    assert [name for name in model.state_dict() if name.startswith("layers.1.")] == []
    assert any(name.startswith("layers.2.") for name in model.state_dict())


def test_the_optimizer_forgets_what_is_gone_and_training_goes_on():
    model = stack().float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(TOKENS).sum().backward()
    optimizer.step()
    remove_blocks_(model, residual_blocks(model, TOKENS), ["layers.0", "layers.2"], optimizer)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(optimizer.state) == set(model.parameters())
    before = model.embed.weight.detach().clone()
    optimizer.zero_grad()
    model(TOKENS).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.embed.weight)


def test_a_rectified_residual_block_can_go_and_one_that_changes_the_shape_is_none():
    class Block(nn.Module):
        def __init__(self, out):
            super().__init__()
            self.conv, self.down = nn.Conv2d(4, out, 3, padding=1), nn.Conv2d(4, out, 1)
            self.same = out == 4

        def forward(self, x):
            return torch.relu(self.conv(x) + (x if self.same else self.down(x)))

    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), Block(4), Block(4), Block(6), nn.Flatten())
    x = torch.randn(2, 2, 5, 5)
    found = residual_blocks(model, x)
    assert list(found.blocks) == ["2", "3"]
    masked = copy.deepcopy(model)
    masked[3].conv.weight.data.zero_()
    masked[3].conv.bias.data.zero_()
    remove_blocks_(model, found, ["3"])
    assert torch.equal(model(x), masked(x))


def test_where_the_shortcut_is_changed_on_its_way_nothing_is_removed():
    assert residual_blocks(Stack(Layer(post=True), Layer(post=True)), TOKENS).blocks == {}
    assert (
        residual_blocks(Residual(), torch.randn(1, 2, 6, 6)).blocks == {}
    )  # its additions stand in no module
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(), nn.Linear(3, 1))
    assert residual_blocks(model, torch.ones(1, 2)).blocks == {}


def test_a_rectifier_on_an_input_that_can_be_negative_is_noticed_by_the_proof():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return torch.relu(x + self.inner(x))

    model = nn.Sequential(nn.Linear(2, 3), Block(), nn.Linear(3, 1))
    found = residual_blocks(model, torch.randn(8, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"differs from the masked model's.*leave fewer blocks out"):
        remove_blocks_(model, found, ["1"])
    assert before.keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="unknown residual block '2'"):
        remove_blocks_(model, found, ["2"])
