import copy
from functools import partial

import pytest
import torch
from torch import nn

from tonsor.pack import gptq, kmeans, pack, share, uniform, unpack
from tonsor.prune import collect
from tonsor.recipe.sharing import share_layerwise_


class Words(nn.Module):
    """An embedding, attention and a convolution."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.conv = nn.Conv1d(16, 8, 3, groups=2)
        self.unused = nn.Linear(16, 16)
        self.register_buffer("table", torch.randn(4, 4))

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.conv((x + self.attention(x, x, x)[0]).mT)


def trained_looking():
    torch.manual_seed(0)
    model = Words()
    with torch.no_grad():  # inputs that have much to do with one another
        model.embedding.weight.copy_(torch.randn(30, 3) @ torch.randn(3, 16) + 0.1 * torch.randn(30, 16))
    return model, [(torch.randint(0, 30, (8, 12)), None) for _ in range(4)]


@pytest.mark.parametrize("sharing", [kmeans, uniform, partial(kmeans, groups=4)])
def test_the_model_holds_what_is_packed_and_gives_nearer_outputs(sharing):
    model, batches = trained_looking()
    dense, nearest = copy.deepcopy(model), copy.deepcopy(model)
    bits = {"embedding.weight": 8, "*_weight": 3, "*.weight": 3}
    shared = share_layerwise_(model, batches, bits=bits, sharing=sharing)
    back = unpack(pack(model, shared=shared))
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor), name
    for name, plain in share(nearest, bits=bits, sharing=sharing).items():
        nearest.state_dict()[name].copy_(plain.values())
    held = torch.randint(0, 30, (64, 12))
    with torch.no_grad():
        errors = [(each(held) - dense(held)).square().mean() for each in (model, nearest)]
    assert errors[0] < 0.9 * errors[1]


def test_the_first_layer_is_shared_as_the_rule_does_it_on_its_own():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), torch.randn(64, 6)
    gram = collect(model, [(x, None)], names=["input_gram"], weights=["0.weight"])["0.weight"]["input_gram"]
    alone = gptq(model[0].weight, gram, bits=3)
    shared = share_layerwise_(model, [(x, None)], bits={"0.weight": 3})
    assert list(shared) == ["0.weight"]
    assert torch.equal(shared["0.weight"].codes, alone.codes)
    assert torch.equal(model[0].weight, alone.values())


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_layers_keep_their_orientation(groups):
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model, x = nn.Sequential(Conv1D(5, 7)), torch.randn(64, 7)
    shared = share_layerwise_(model, [(x, None)], sharing=partial(kmeans, groups=groups))
    assert shared["0.weight"].codes.shape == (7, 5)
    assert torch.equal(shared["0.weight"].values(), model[0].weight)


def test_a_model_without_layers_takes_the_nearest_values():
    model = nn.Sequential(nn.Embedding(9, 4))
    nearest = share(model, bits=2)["0.weight"].values()
    share_layerwise_(model, [(torch.arange(9), None)], bits=2)
    assert torch.equal(model[0].weight, nearest)


def test_without_a_batch_nothing_is_touched():
    model = nn.Sequential(nn.Linear(9, 6))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="there was no batch"):
        share_layerwise_(model, [], bits=2)
    assert torch.equal(model[0].weight, before)


def test_zeros_stay_zero():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(9, 6)), torch.randn(64, 9)
    zeros = torch.rand(6, 9) < 0.5
    with torch.no_grad():
        model[0].weight[zeros] = 0
    share_layerwise_(model, [(x, None)], bits=4)
    assert not model[0].weight[zeros].any()
