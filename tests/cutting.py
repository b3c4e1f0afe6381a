"""Shrink a model and its masked twin, for tests that compare what both give."""

import copy

import torch
from torch import nn

from tonsor.prune import find_masks
from tonsor.prune.scopes import local
from tonsor.shrink import channel_groups, shrink_
from tonsor.tensors import apply_masks_


def conv_net():
    """Return two convolutions and a head, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.Flatten(),
        nn.Linear(96, 2),
    )


X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def weights(model):
    """Return the weights of two or more dimensions."""
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def cut(model, x, sparsity=0.5, scope=local, **kept):
    """Shrink a model and return it with what its masked copy gives and what it gives on a new input."""
    groups = channel_groups(model, x)
    masks = find_masks(weights(model), sparsity, pattern=groups, scope=scope)
    masked = copy.deepcopy(model).eval()
    apply_masks_(dict(masked.named_parameters(remove_duplicate=False)), masks)
    told = shrink_(model, groups, masks, **kept)
    small = copy.deepcopy(model).eval()
    fresh = torch.randn_like(x) if x.is_floating_point() else x.flip(0)
    with torch.no_grad():
        return told, small(fresh), masked(fresh)
