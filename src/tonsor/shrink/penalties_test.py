import numpy as np
import pytest
import torch
from torch import nn

from tonsor.schedule import linear
from tonsor.shrink import channel_groups, group_lasso, growing_l2, shrink_
from tonsor.shrink.nets_test import built, mlp
from tonsor.tensors import apply_masks_


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_penalty_is_the_paper_s_sum_of_norms_over_units(name):
    model, example = built(name)
    groups = channel_groups(model, example)
    own = {n: p.detach().numpy() for n, p in model.named_parameters()}
    total = 0.0
    for group in groups.groups.values():
        for unit in range(group.units):
            slices = [
                np.take(own[part.parameter], part.index[unit].numpy(), axis=part.dim).ravel()
                for part in group.slices
                if part.parameter in own
            ]
            weights = np.concatenate(slices)
            total += np.sqrt(group.cost) * np.linalg.norm(weights)
    np.testing.assert_allclose(group_lasso(model, groups).item(), total, rtol=1e-5)


def test_the_gradient_of_a_unit_is_its_direction_and_zero_where_it_is_zero():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight[1] = 0.0
        model[1].weight[:, 1] = 0.0
    groups = channel_groups(model, torch.ones(1, 2).double())
    group_lasso(model, groups).backward()
    assert model[0].weight.grad[1].tolist() == [0.0, 0.0]
    unit = torch.cat([model[0].weight[0], model[1].weight[:, 0]]).detach()
    torch.testing.assert_close(model[0].weight.grad[0], 3**0.5 * unit[:2] / unit.norm())


def test_lasso_finds_the_units_that_are_needed_and_the_rest_can_be_cut():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
    x = torch.randn(256, 3)
    y = torch.relu(x[:, :1]) - torch.relu(x[:, 1:2])  # two units are enough
    groups = channel_groups(model, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(600):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        (loss + 2e-3 * group_lasso(model, groups)).backward()
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 600)
        optimizer.step()
    sizes = groups.scored(reduction="l2", normalise="none").reduce(dict(model.named_parameters()))["0.weight"]
    keep = {"0.weight": sizes > 0.05 * sizes.max()}
    shrink_(model, groups, groups.expand(keep, dict(model.named_parameters())))
    assert model[0].out_features <= 8
    assert (model(x) - y).square().mean() < 0.05


def test_a_growing_penalty_takes_from_what_will_go_before_it_goes():
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(64, 5)
    groups = channel_groups(model, x)
    keep = {name: torch.arange(g.units) > 1 for name, g in groups.groups.items()}
    masks = groups.expand(keep, dict(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = growing_l2(model, masks).item()
    for step in range(100):
        optimizer.zero_grad()
        (linear(step, initial=0.0, final=10.0, stop=100) * growing_l2(model, masks)).backward()
        optimizer.step()
    assert growing_l2(model, masks).item() < 1e-6 * before
    model.eval()
    expected = model(x)
    apply_masks_(dict(model.named_parameters()), masks)
    torch.testing.assert_close(model(x), expected, atol=1e-3, rtol=0)
