"""The channels inside heads go against the masked model, whose attention keeps the scale it had."""

import copy
from math import sqrt

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.prune import across, find_masks, local, magnitude
from tonsor.shrink import channel_groups, load, save, shrink_, shrink_to
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow


def fused(q, k, v):
    """Leave the scale to torch: the root of the size that queries have now."""
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def causal(q, k, v):
    """Name the scale, and hide what comes later."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def repeated(q, k, v):
    """Repeat keys and values for the queries that share them, and multiply matrices."""
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    return torch.softmax(q @ k.transpose(-2, -1) / sqrt(q.shape[-1]), -1) @ v


def summed(q, k, v):
    """Sum over letters."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.4
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


class Attending(nn.Module):
    """Attention with layers of their own for queries, keys and values; values have another size."""

    def __init__(self, attend, shared=1):
        super().__init__()
        self.attend, self.heads = attend, 4
        self.embed, self.head = nn.Linear(5, 10), nn.Linear(10, 2)
        self.q, self.k = nn.Linear(10, 24), nn.Linear(10, 24 // shared)
        self.v, self.o = nn.Linear(10, 20 // shared), nn.Linear(20, 10)
        self.shared = shared

    def forward(self, x):
        x = self.embed(x)
        layers = (
            (self.q, self.heads),
            (self.k, self.heads // self.shared),
            (self.v, self.heads // self.shared),
        )
        q, k, v = (layer(x).unflatten(-1, (heads, -1)).transpose(1, 2) for layer, heads in layers)
        return self.head(x + self.o(self.attend(q, k, v).transpose(1, 2).flatten(2)))


class Packed(nn.Module):
    """Attention as torch has it."""

    def __init__(self, weights):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 2)
        self.embed, self.weights = nn.Linear(5, 12), weights

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.attention(x, x, x, need_weights=self.weights)[0])


APART = {"q.weight": 6, "v.weight": 5}
MODELS = {
    "fused": (lambda: Attending(fused), APART),
    "named scale": (lambda: Attending(causal), APART),
    "matrices": (lambda: Attending(repeated), APART),
    "letters": (lambda: Attending(summed), APART),
    "shared keys": (lambda: Attending(fused, shared=2), APART),
    "repeated keys": (lambda: Attending(repeated, shared=2), APART),
    "torch's": (lambda: Packed(weights=False), {"attention.in_proj_weight": 4}),
    "torch's with weights": (lambda: Packed(weights=True), {"attention.in_proj_weight": 4}),
}


def ready(name):
    """Return a model in float64 with random biases, and its groups."""
    torch.manual_seed(0)
    model = MODELS[name][0]().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model, channel_groups(model, torch.randn(2, 6, 5).double(), head_dim=True)


def masked_by(model, groups, names=("",)):
    """Return masks that remove some places inside heads, and the masked copy."""
    keep = {name: torch.arange(group.units) % 3 != 1 for name, group in groups.groups.items()}
    like = {name: p for name, p in model.named_parameters() if name.endswith(tuple(names))}
    masks = groups.expand(keep, like)
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    return masks, masked


@pytest.mark.parametrize("name", MODELS)
def test_the_same_places_of_all_heads_go_and_the_scale_stays(name):
    model, groups = ready(name)
    inside = {key: g for key, g in groups.groups.items() if key in MODELS[name][1]}
    assert {key: group.units for key, group in inside.items()} == MODELS[name][1]
    queries = groups.groups.get("q.weight")
    if queries is not None:
        assert {(p.parameter, p.dim) for p in queries.slices} == {
            (n, 0) for n in ("q.weight", "q.bias", "k.weight", "k.bias")
        }
        assert queries.slices[0].index[1].tolist() == [1, 7, 13, 19]
    masks, masked = masked_by(model, groups)
    shrunk = shrink_(model, groups, masks)
    assert set(shrunk.removed) == set(groups.groups)
    fresh = torch.randn(3, 6, 5).double()
    torch.testing.assert_close(model(fresh), masked(fresh), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "goes"), [("fused", True), ("matrices", False)])
def test_a_key_that_is_the_same_everywhere_takes_no_part_in_a_fused_softmax(name, goes):
    """With weights alone masked, biases still give every query and key a constant."""
    model, groups = ready(name)
    masks, masked = masked_by(model, groups, names=["weight"])
    shrunk = shrink_(model, groups, masks)
    assert ("q.weight" in shrunk.removed) is goes
    fresh = torch.randn(3, 6, 5).double()
    torch.testing.assert_close(model(fresh), masked(fresh), rtol=1e-11, atol=1e-11)


def test_nothing_is_removed_that_is_only_small():
    model, groups = ready("fused")
    with torch.no_grad():
        model.q.weight[::6] = 0.0  # queries are a constant there, keys are not: it counts
    before, x = copy.deepcopy(model), torch.randn(2, 6, 5).double()
    assert "q.weight" not in shrink_(model, groups).removed
    torch.testing.assert_close(model(x), before(x))


def test_rotated_queries_stay_and_values_go():
    class Rotated(Attending):
        def __init__(self):
            super().__init__(self.turn)
            self.register_buffer("cos", torch.randn(6, 3).cos().repeat(1, 2))

        def turn(self, q, k, v):
            q, k = (x * self.cos + torch.cat([-x[..., 3:], x[..., :3]], -1) for x in (q, k))
            return fused(q, k, v)

    torch.manual_seed(0)
    model, x = Rotated().double(), torch.randn(2, 6, 5).double()
    assert "q.weight" in channel_groups(model, x).groups  # whole heads
    groups = channel_groups(model, x, head_dim=True)
    frozen = {group.name: group.reason for group in groups.frozen}
    assert "v.weight" in groups.groups
    assert frozen["q.weight"] == "aten.scaled_dot_product_attention"
    masks, masked = masked_by(model, groups)
    shrink_(model, groups, masks)
    torch.testing.assert_close(model(x), masked(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("scope", "reduction"), [(local, "l2"), (across, "max")])
def test_scores_scopes_optimizers_and_files_work_as_for_any_group(scope, reduction, tmp_path):
    model, groups = ready("fused")
    groups = groups.scored(reduction=reduction, normalise="mean").limited(only=["head_dim"], at_least=2)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(2, 6, 5).double()
    model(x).sum().backward()
    optimizer.step()
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    masks = find_masks(weights, 0.5, importance=magnitude, pattern=groups, scope=scope)
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    plan = shrink_(model, groups, masks, optimizer).plan
    assert model.o.in_features < 20
    assert optimizer.state[model.q.weight]["exp_avg"].shape == model.q.weight.shape
    torch.testing.assert_close(model(x), masked(x))
    save(model, tmp_path / "small.safetensors", plan=plan)
    again = load(MODELS["fused"][0]().double(), tmp_path / "small.safetensors", x)
    torch.testing.assert_close(again(x), model(x))
    model(x).sum().backward()
    optimizer.step()


def test_a_target_is_met_inside_heads():
    model, groups = ready("named scale")
    count = sum(p.numel() for p in model.parameters())
    reached = shrink_to(
        model, torch.randn(2, 6, 5).double(), groups=groups.limited(only=["head_dim"]), params=0.7
    )
    assert reached.after == sum(p.numel() for p in model.parameters()) <= 0.7 * count
    assert set(reached.widths) == set(APART)
    assert reached.shrunk.rewritten == ""  # its code names the scale, and runs as it is
