import pytest
import torch
from torch import nn

from tonsor.prune import collect


def positions(model, *inputs, weights=None):
    """Return how often each weight is used, as plain numbers."""
    found = collect(model, [(inputs, None)], names=["positions"], weights=weights)
    return {name: of["positions"].item() for name, of in found.items()}


@pytest.mark.parametrize(
    ("layer", "shape", "uses"),
    [
        (nn.Linear(4, 3), (2, 7, 4), 14),
        (nn.Linear(4, 3, bias=False), (4,), 1),
        (nn.Conv2d(4, 6, 3, groups=2, stride=2), (2, 4, 9, 9), 2 * 4 * 4),
        (nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False), (1, 4, 5, 5), 25),
        (nn.Conv1d(4, 6, 3), (4, 8), 6),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (3, 4, 5, 5), 3 * 25),
        (nn.Linear(4, 3).bfloat16(), (5, 4), 5),
    ],
    ids=repr,
)
def test_a_weight_is_used_once_for_each_place_it_stands_at(layer, shape, uses):
    x = torch.zeros(shape, dtype=layer.weight.dtype)
    assert positions(layer, x) == {"weight": uses}


class Twice(nn.Module):
    """Use a layer twice, a bare parameter once, and one not at all."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.bare = nn.Parameter(torch.ones(4, 4))
        self.unused = nn.Parameter(torch.ones(4, 4))
        self.table = nn.Embedding(5, 4)

    def forward(self, x):
        return self.layer(self.layer(x)) @ self.bare + self.table(torch.zeros(3, dtype=torch.long))


def test_calls_add_up_and_what_is_not_multiplied_has_none():
    found = positions(Twice(), torch.zeros(3, 4))
    assert found == {"bare": 3, "unused": 0, "layer.weight": 6, "table.weight": 0}


def test_a_cast_weight_is_the_weight():
    model = nn.Linear(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert positions(model, torch.zeros(5, 4)) == {"weight": 5}


def test_the_mean_goes_over_batches_and_no_gradient_is_counted():
    model = nn.Linear(4, 3)
    data = [(torch.zeros(2, 4), None), (torch.zeros(4, 4), None)]
    found = collect(model, data, names=["positions", "gradient"], loss=lambda output, _: output.sum())
    assert found["weight"]["positions"] == 3


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.MultiheadAttention(8, 2, batch_first=True), [torch.zeros(1, 5, 8)] * 3),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), [torch.zeros(1, 5, 8)]),
        (nn.LSTM(8, 6), [torch.zeros(5, 1, 8)]),
        (nn.GRU(8, 6), [torch.zeros(5, 1, 8)]),
    ],
    ids=["MultiheadAttention", "TransformerEncoderLayer", "LSTM", "GRU"],
)
def test_attention_and_recurrence_are_seen_inside(model, inputs):
    assert set(positions(model, *inputs).values()) == {5}


def test_an_error_in_the_forward_leaves_nothing_behind():
    model = nn.Linear(4, 3)
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="shapes"):
        positions(model, torch.zeros(2, 5))
    assert not model._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.mkldnn.enabled
    assert positions(model, torch.zeros(2, 4)) == {"weight": 2}
