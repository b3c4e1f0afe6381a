import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.nets_test import NETS, built


def counted(model, example):
    """Return what torch counts in one call of the model: the oracle."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return counter.get_total_flops() // 2


def sizes(model):
    """Return parameters and bytes as they are."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(p.numel() for p in model.parameters()), sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETS if name not in ("attending", "sequenced")])
def test_costs_are_those_of_the_sliced_model(name):
    """What is counted from the numbers of units alone is what torch counts in the model that was sliced."""
    model, example = built(name)
    groups = channel_groups(model, example)
    assert groups.costs.after({}).macs == counted(model, example)
    keep = {g: torch.arange(group.units) >= group.units // 2 for g, group in groups.groups.items()}
    small = copy.deepcopy(model)
    shrunk = shrink_(small, groups, groups.expand(keep, dict(small.named_parameters(remove_duplicate=False))))
    cost = groups.costs.after({g: len(units) for g, units in shrunk.removed.items()})
    if not shrunk.plan["biases"]:
        assert (cost.params, cost.bytes) == sizes(small)
    assert cost.macs == counted(small, example)


class Attention(nn.Module):
    """Self-attention by the products themselves, and by torch's own."""

    def __init__(self, *, fused):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.fused = fused

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            h = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            h = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return x + self.o(h.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [True, False])
def test_the_products_of_attention_are_counted(fused):
    model, example = Attention(fused=fused), torch.randn(3, 5, 8)
    work = channel_groups(model, example).work
    by_hand = dict.fromkeys(("q.weight", "k.weight", "v.weight", "o.weight"), 15)
    assert work.uses == by_hand
    products = [term for term in work.terms if not term.weight]
    assert [term.uses for term in products] == [3 * 5 * 5 * 8] * 2
    assert work.attended == {"q.weight", "k.weight", "v.weight"}
    assert [sorted(term.made) for term in products] == [["k.weight"], ["v.weight"]]


def test_einsum_recurrent_cells_and_blocks_without_gradients_are_counted():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.f = nn.Parameter(torch.randn(4, 5)), nn.Linear(5, 6)
            self.lstm = nn.GRU(6, 3, batch_first=True)

        def forward(self, x):
            with torch.no_grad():
                x = self.f(torch.einsum("bti,ij->btj", x, self.p))
            return self.lstm(x)[0]

    work = channel_groups(Mixed(), torch.randn(2, 7, 4)).work
    uses = dict.fromkeys(("p", "f.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"), 14)
    assert work.uses == uses


def test_a_unit_costs_what_its_slices_multiply_and_the_listing_says_so():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(80, 2))
    groups = channel_groups(model, torch.randn(1, 3, 6, 6))
    first = groups.costs.unit("0.weight")
    assert (
        first.macs == 16 * 27 + 16 * 5
    )  # 4 x 4 positions: its filter, and a weight in each filter that reads it
    assert first.params == 28 + 5
    assert f"{first.params}" in str(groups)
    assert f"{first.macs}" in str(groups)
