import copy

import pytest
import torch
from torch import nn

from tonsor.prune import collect, eliminate, find_masks, heal, magnitude, per_output
from tonsor.prune.from_gram_test import Conv1D
from tonsor.prune.statistics_test import photograph, same


class Attending(nn.Module):
    """A transformer layer, a convolution, a transposed linear layer and what is no layer at all."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.5) for _ in range(3)
        )
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm1d(8)
        self.head = Conv1D(4, 8)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(self.mix(x.mT)).mT)


def attending():
    torch.manual_seed(0)
    model = Attending().double()
    model.blocks[1].eval()
    model.head.weight.requires_grad_(False)
    return model


def tokens(count=4):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randint(9, (6, 10), generator=generator), None) for _ in range(count)]


def halves(model):
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return find_masks(weights, 0.5, importance=magnitude, scope=per_output)


def distance(model, dense, batches):
    model.eval()
    dense.eval()
    with torch.no_grad():
        return sum(float((model(x) - dense(x)).square().sum()) for x, _ in batches)


def test_masks_hold_exactly_and_every_layer_is_nearer_to_the_dense_one():
    model, masks = attending(), halves(attending())
    records = heal(model, masks, tokens())
    assert {record.name for record in records} == set(masks)
    for name, mask in masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()
    healed = [record for record in records if not record.note]
    assert [r.name for r in records if r.note] == ["embedding.weight"]
    assert [r.name for r in healed][:2] == [
        "blocks.0.self_attn.in_proj_weight",
        "blocks.0.self_attn.out_proj.weight",
    ]
    assert all(record.after <= record.before for record in healed)
    assert all(0.4 < record.sparsity < 0.6 for record in records)


@pytest.mark.parametrize(("target", "part"), [("dense", 0.5), ("current", 0.8)])
def test_outputs_are_nearer_than_with_the_masks_alone(target, part):
    dense = attending()
    masks = {name: mask for name, mask in halves(dense).items() if name != "embedding.weight"}
    masked, healed = copy.deepcopy(dense), copy.deepcopy(dense)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    heal(healed, masks, tokens(), target=target)
    assert distance(healed, dense, tokens()) < part * distance(masked, dense, tokens())


def test_modes_buffers_random_state_and_hooks_are_as_before():
    model = attending()
    before = photograph(model)
    masks = halves(model)
    heal(model, masks, tokens())
    after = photograph(model)
    for key in ("training", "identity", "wanted", "grads", "random", "hooks"):
        same(after[key], before[key])
    changed = {n for n in before["state"] if not torch.equal(before["state"][n], after["state"][n])}
    assert changed == {n for n in changed if n in masks or n.endswith("bias")}
    assert "norm.bias" not in changed


def test_an_error_of_the_model_leaves_hooks_modes_and_dense_weights():
    model = attending()
    before = photograph(model)
    with pytest.raises(IndexError):
        heal(model, {"head.weight": halves(model)["head.weight"]}, [*tokens(), (torch.tensor([[99]]), None)])
    same(photograph(model), before)
    assert torch.backends.mha.get_fastpath_enabled()


class Hidden(nn.Module):
    """A model whose blocks stand in no list, so that they are no chain."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.one, self.two, self.three = model.blocks
        del model.blocks

    def forward(self, tokens):
        x = self.three(self.two(self.one(self.model.embedding(tokens))))
        return self.model.head(self.model.norm(self.model.mix(x.mT)).mT)


@pytest.mark.parametrize("target", ["dense", "current"])
def test_a_chain_of_blocks_gives_what_runs_of_the_whole_model_give(target):
    chained, whole = attending(), Hidden(attending())
    masks = halves(chained)
    names = {"blocks.0": "one", "blocks.1": "two", "blocks.2": "three"}

    def other(name):
        return next((name.replace(a, b) for a, b in names.items() if name.startswith(a)), f"model.{name}")

    heal(chained, masks, tokens(), target=target)
    heal(whole, {other(name): mask for name, mask in masks.items()}, tokens(), target=target)
    for name, parameter in chained.named_parameters():
        torch.testing.assert_close(whole.get_parameter(other(name)), parameter, rtol=1e-6, atol=1e-9)


def test_removed_neurons_are_made_up_for_by_those_that_stay():
    torch.manual_seed(0)
    x = torch.randn(400, 6) @ torch.randn(6, 12)
    dense = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))
    found = collect(dense, [(x, None)], names=["input_gram", "input_mean"], weights=["2.weight"])["2.weight"]
    order = eliminate(dense[2].weight, found["input_gram"], mean=found["input_mean"])
    keep = order >= 10
    masks = {"0.weight": keep[:, None].expand(20, 12), "0.bias": keep, "2.weight": keep.expand(3, 20)}
    losses = {}
    for target in ("dense", "current"):
        model = copy.deepcopy(dense)
        heal(model, masks, [(x, None)], target=target)
        assert (model[0].bias[~keep] == 0).all()
        assert (model[2].weight[:, ~keep] == 0).all()
        losses[target] = distance(model, dense, [(x, None)])
    masked = copy.deepcopy(dense)
    with torch.no_grad():
        masked[2].weight.mul_(keep)
    assert losses["dense"] < 0.3 * losses["current"]
    assert losses["dense"] < 0.3 * distance(masked, dense, [(x, None)])


def test_a_layer_called_twice_is_fitted_to_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    torch.manual_seed(0)
    dense, x = Twice().double(), torch.randn(100, 6).double()
    model, masks = copy.deepcopy(dense), {"layer.weight": torch.rand(6, 6) > 0.3}
    (record,) = heal(model, masks, [(x, None)])
    with torch.no_grad():
        first = dense.layer(x).relu()
        fed = torch.cat([x, first])
        lost = (model.layer(fed) - dense.layer(fed)).square().sum()
        power = (fed @ dense.layer.weight.T).square().sum()
    assert record.after == pytest.approx(float(lost / power), rel=1e-6)


def test_tied_and_uncalled_weights_are_masked_and_the_record_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    model[1].spare = nn.Linear(4, 4)
    masks = {
        n: torch.rand(model.get_parameter(n).shape) > 0.5 for n in ("0.weight", "1.weight", "1.spare.weight")
    }
    records = {record.name: str(record) for record in heal(model, masks, [(torch.arange(5), None)])}
    assert "no layer of its own" in records["0.weight"]
    assert "not called" in records["1.spare.weight"]
    assert "error" in records["1.weight"]
    for name, mask in masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2, bias=False)).to(dtype)
    masks = {"0.weight": torch.rand(8, 8) > 0.5, "2.weight": torch.rand(2, 8) > 0.3}
    records = heal(model, masks, [(torch.randn(64, 8).to(dtype), None)])
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(record.after < record.before for record in records)


def test_inputs_may_be_named_and_targets_are_not_looked_at():
    model = nn.Linear(4, 2)
    masks = {"weight": torch.tensor([[True, False, True, True]] * 2)}
    (record,) = heal(model, masks, [({"input": torch.randn(20, 4)}, object())])
    assert record.after < record.before


@pytest.mark.parametrize(
    ("masks", "named", "says"),
    [
        ({"wieght": torch.ones(2, 4) > 0}, {}, "unknown parameter 'wieght'; did you mean 'weight'"),
        ({"weight": torch.ones(2, 4)}, {}, r"mask of 'weight' must be boolean of shape \(2, 4\)"),
        ({"weight": torch.ones(4, 2) > 0}, {}, r"got torch.bool of shape \(4, 2\)"),
        ({}, {"target": "dence"}, "unknown target 'dence'; did you mean 'dense'"),
    ],
)
def test_a_mistake_is_told_before_anything_changes(masks, named, says):
    model = nn.Linear(4, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"prune\.heal: .*{says}"):
        heal(model, masks, [(torch.ones(1, 4), None)], **named)
    same(model.state_dict(), before)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match=r"prune\.heal: there was no batch"):
        heal(nn.Linear(4, 2), {}, [])


def test_masks_of_an_attention_with_its_biases_heal_as_those_of_its_weights():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(16, 5, 8)
    stays = torch.tensor([True] * 6 + [False] * 2)
    masks = {"out_proj.weight": stays[:, None].expand(8, 8), "out_proj.bias": stays}
    records = heal(attention, masks, [((x, x, x), None)])
    assert [record.name for record in records] == ["out_proj.weight"]
    assert not attention.out_proj.bias[6:].any()
    assert not attention.out_proj.weight[6:].any()
