"""ThiNet against the definition: remove channels from real inputs, and look at what the output loses."""

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import Channel, find_masks, local, thinet


def gram(patches):
    """Return the mean outer product of rows, group by group: `(groups, d, d)` of `(groups, positions, d)`."""
    return torch.tensor(np.einsum("gpa,gpb->gab", patches, patches) / patches.shape[1])


def greedy(weight, patches):
    """Return order and loss of the channels of one group, each removal tried on the output itself."""
    outs, inputs = weight.shape[:2]
    kernel = weight[0, 0].size
    rows, seen = weight.reshape(outs, inputs, kernel), patches.reshape(len(patches), inputs, kernel)
    given = np.einsum("ock,pck->cpo", rows, seen)  # what each channel gives to the output
    order, losses = [], []
    while len(order) < inputs:
        left = [c for c in range(inputs) if c not in order]
        tried = [np.square(given[[*order, c]].sum(0)).sum(1).mean() for c in left]
        order.append(left[int(np.argmin(tried))])
        losses.append(min(tried))
    return order, np.maximum.accumulate(losses)


def layer(kind, groups, seed=0):
    """Return a weight and the patches that its outputs are computed from."""
    torch.manual_seed(seed)
    if kind == "linear":
        weight, x = torch.randn(3, 6), torch.randn(50, 6) @ torch.randn(6, 6)
        return weight.double().numpy(), x.double().numpy()[None]
    channels, places = 6, {"conv1d": 1, "conv2d": 2}[kind]
    weight = torch.randn(4, channels // groups, *[3] * places)
    x = torch.randn(5, channels, *[6] * places).cumsum(1)
    wide = x.unsqueeze(2) if places == 1 else x
    columns = nn.functional.unfold(wide, (1, 3) if places == 1 else (3, 3))
    patches = columns.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return weight.double().numpy(), patches.double().numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "groups"), [("linear", 1), ("conv1d", 1), ("conv2d", 1), ("conv2d", 2)])
def test_channels_go_in_the_order_that_costs_the_output_least(kind, groups, seed):
    weight, patches = layer(kind, groups, seed)
    scores = thinet(torch.tensor(weight), gram(patches)).numpy()
    per_group = len(weight) // groups
    for group in range(groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        order, losses = greedy(weight[rows], patches[group])
        found = scores[rows].reshape(per_group, weight.shape[1], -1)
        assert (found == found[:1, :, :1]).all()
        assert np.argsort(found[0, :, 0]).tolist() == order
        np.testing.assert_allclose(np.sort(found[0, :, 0]), losses, rtol=1e-4)


def test_the_patches_of_the_test_are_those_of_the_convolution():
    weight, patches = layer("conv2d", 2)
    torch.manual_seed(0)
    torch.randn(4, 3, 3, 3)
    x = torch.randn(5, 6, 6, 6).cumsum(1)
    given = nn.functional.conv2d(x.double(), torch.tensor(weight), groups=2)
    rows = weight.reshape(2, 2, -1)
    again = np.einsum("gpd,god->pgo", patches, rows).reshape(5, 16, 4)
    np.testing.assert_allclose(given.flatten(2).permute(0, 2, 1), again, rtol=1e-5, atol=1e-6)


def test_the_order_survives_the_pattern_and_single_precision():
    weight, patches = layer("linear", 1)
    order, _ = greedy(weight, patches[0])
    stats = {"w": {"input_gram": gram(patches).float()}}
    given = {"stats": stats, "importance": thinet, "pattern": Channel(dim=1), "scope": local}
    for count in range(1, 6):
        masks = find_masks({"w": torch.tensor(weight).float()}, count / 6, **given)
        gone = torch.nonzero(~masks["w"][0]).flatten().tolist()
        assert gone == sorted(order[:count])


def test_of_two_channels_that_cancel_the_second_follows_the_first():
    weight = torch.tensor([[1.0, -1.0, 0.9]])
    fed = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    assert thinet(weight, fed)[0].argsort().tolist() == [2, 0, 1]
    assert thinet(weight[:, :2], fed[:, :2, :2]).allclose(torch.ones(1, 2).double(), rtol=1e-5)
