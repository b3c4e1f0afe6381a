"""A model whose forward runs its rewritten graph is still the module it was."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink import channel_groups, load, save, shrink_
from tonsor.tensors import apply_masks_


class Numbered(nn.Module):
    """Carry a size as a number in its code, in front of a layer without a bias, and drop some values."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 4, 1, bias=False)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(16, 2, bias=False)

    def forward(self, x):
        x = self.second(self.dropout(F.gelu(self.first(x)))).split([1, 3], 1)
        return self.head(torch.cat(x[::-1], 1).view(-1, 16))


def shrunk():
    """Return the masked and the shrunk model, its report and an input; the units that go are constant."""
    torch.manual_seed(0)
    model, x = Numbered().double(), torch.randn(3, 1, 2, 2).double()
    masks = {"first.weight": torch.ones(6, 1, 1, 1, dtype=torch.bool)}
    masks["second.weight"] = torch.ones(4, 6, 1, 1, dtype=torch.bool)
    masks["first.weight"][[1, 4]] = masks["second.weight"][2] = False
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    return masked, model, shrink_(model, channel_groups(model, x), masks), x


def test_layers_without_a_bias_take_constants_in_a_rewritten_graph():
    masked, model, report, x = shrunk()
    assert {name: len(units) for name, units in report.removed.items()} == {
        "first.weight": 2,
        "second.weight": 1,
    }
    assert report.rewritten
    assert model.second.bias is not None
    for y in (x, torch.randn_like(x)):
        torch.testing.assert_close(model.eval()(y), masked.eval()(y), rtol=1e-12, atol=1e-12)


def test_new_biases_of_a_rewritten_graph_train_and_are_loaded(tmp_path):
    _, model, report, x = shrunk()
    model.train()(x).sum().backward()
    assert model.second.bias.grad is not None
    save(model, tmp_path / "small.safetensors", plan=report.plan)
    again = load(Numbered().double(), tmp_path / "small.safetensors", x)
    assert torch.equal(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize("copied", [False, True])
def test_dropout_follows_the_training_flag_of_a_rewritten_model(copied):
    _, model, _, x = shrunk()
    model = copy.deepcopy(model) if copied else model
    model.train()
    assert not torch.equal(model(x), model(x))
    model.dropout.eval()
    assert torch.equal(model(x), model(x))
