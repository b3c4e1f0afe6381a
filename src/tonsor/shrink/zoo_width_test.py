"""Families of networks whose width goes through norms, against norms written by hand."""

import copy

import pytest
import torch
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.zoo_test import FAMILIES, FROZEN, halved, ready
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow

# What lies in a norm and can go only now: the weight that a group is named after.
WIDTHS = {
    "ViT": "p.weight",
    "CaiT": "p.weight",
    "EVA": "pe.weight",
    "Mixer": "p.weight",
    "PoolFormer": "p.weight",
    "gMLP": "p.weight",
}


def over(norm, stays):
    """Return a norm's forward with mean and variance of what stays, as weighted sums."""

    def forward(x):
        dims = (-1,) if isinstance(norm, nn.LayerNorm) else (1, 2, 3)
        shape = (-1,) if isinstance(norm, nn.LayerNorm) else (-1, 1, 1)
        here = stays.view(shape).expand_as(x)
        count = here.sum(dims, keepdim=True)
        centred = x - (x * here).sum(dims, keepdim=True) / count
        variance = (centred**2 * here).sum(dims, keepdim=True) / count
        return centred / (variance + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)

    return forward


@pytest.mark.parametrize("family", WIDTHS)
def test_its_width_is_halved_and_its_norms_are_those_of_what_stays(family):
    model, x = ready(FAMILIES[family] if family in FAMILIES else FROZEN[family][0])
    groups = channel_groups(model, x, width=True)
    assert WIDTHS[family] in set(groups.groups) - set(channel_groups(model, x).groups)
    masks = halved(model, groups)
    oracle = copy.deepcopy(model)
    apply_masks_(dict(oracle.named_parameters()), masks)
    for name, module in oracle.named_modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            object.__setattr__(module, "forward", over(module, masks[f"{name}.weight"].double()))
    shrunk = shrink_(model, groups, masks)
    assert shrunk.after < 0.5 * shrunk.before
    fresh = torch.randn(5, 3, 16, 16).double()
    torch.testing.assert_close(model(fresh), oracle(fresh), rtol=1e-9, atol=1e-9)
