import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.nets_test import built, mlp, vgg
from tonsor.tensors import apply_masks_


def train(model, optimizer, x, ema=None):
    """Take one step."""
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    if ema is not None:
        ema.update_parameters(model)


def masks_for(model, groups):
    """Return masks that remove the first half of each group."""
    keep = {name: torch.arange(g.units) >= g.units // 2 for name, g in groups.groups.items()}
    return groups.expand(keep, dict(model.named_parameters()))


@pytest.mark.parametrize(
    "make", [AveragedModel, copy.deepcopy, lambda m: dict(copy.deepcopy(m).state_dict())]
)
def test_an_average_computes_what_it_did_with_the_masked_weights_at_zero(make):
    model, x = built("vgg")
    ema = make(model)
    own = ema if isinstance(ema, dict) else dict(getattr(ema, "module", ema).named_parameters())
    with torch.no_grad():
        for tensor in own.values():
            if tensor.is_floating_point():
                tensor.mul_(0.9)
    groups = channel_groups(model, x)
    masks = masks_for(model, groups)
    reference = copy.deepcopy(model)
    reference.load_state_dict(ema if isinstance(ema, dict) else getattr(ema, "module", ema).state_dict())
    apply_masks_(dict(reference.named_parameters()), masks)
    objects = list(own.values())
    shrink_(model, groups, masks, ema=ema)
    small = copy.deepcopy(model)
    small.load_state_dict(ema if isinstance(ema, dict) else getattr(ema, "module", ema).state_dict())
    torch.testing.assert_close(small.eval()(x), reference.eval()(x), rtol=1e-10, atol=1e-10)
    after = ema if isinstance(ema, dict) else dict(getattr(ema, "module", ema).named_parameters())
    assert all(a is b for a, b in zip(objects, after.values(), strict=True))


def test_a_constant_of_the_average_goes_into_its_own_bias():
    """The same unit is constant in both, but not the same constant."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False)).double()
    ema = copy.deepcopy(model)
    masks = {"0.weight": torch.ones(4, 3, dtype=torch.bool)}
    masks["0.weight"][1] = False
    with torch.no_grad():
        ema[0].bias[1] += 1.0
    reference = copy.deepcopy(ema)
    apply_masks_(dict(reference.named_parameters()), masks)
    x = torch.randn(5, 3).double()
    assert shrink_(model, channel_groups(model, x), masks, ema=ema).removed == {"0.weight": [1]}
    assert ema[2].bias is not None
    torch.testing.assert_close(ema(x), reference(x))


def test_optimizer_scheduler_scaler_and_average_go_on_after_the_cut():
    model, x = vgg(), torch.randn(4, 2, 8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    scaler = torch.amp.GradScaler("cpu")
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    groups = channel_groups(model, x)
    for step in range(4):
        if step == 2:
            shrink_(model, groups, masks_for(model, groups), optimizer, ema)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        ema.update_parameters(model)
        assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scheduler.get_last_lr() == [0.0]
    assert ema.n_averaged == 4
    assert [p.shape for p in ema.module.parameters()] == [p.shape for p in model.parameters()]
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())


def test_the_cut_average_stays_the_cut_of_the_average():
    """Averaging and slicing can be exchanged: sliced first or last, the average is the same."""
    torch.manual_seed(0)
    model, x = mlp().double(), torch.randn(4, 5).double()
    groups = channel_groups(model, x)
    masks = masks_for(model, groups)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model.eval(), optimizer, x, ema)
    late, late_ema = copy.deepcopy((model, ema))
    shrunk = shrink_(model, groups, masks, ema=ema)
    ema.update_parameters(model)
    late_ema.update_parameters(late)
    for name, tensor in late_ema.module.named_parameters():
        for dim, index in shrunk.plan["slices"].get(name, {}).items():
            tensor.data = tensor.data.index_select(int(dim), torch.tensor(index))
        assert torch.equal(tensor, dict(ema.module.named_parameters())[name]), name


def test_averages_of_another_model_are_refused_and_nothing_is_touched():
    model, x = mlp(), torch.randn(4, 5)
    groups = channel_groups(model, x)
    for ema, said in (
        ({"1.weight": torch.ones(1)}, "unknown tensor"),
        ({"0.weight": torch.ones(2, 2)}, "shape"),
    ):
        with pytest.raises(ValueError, match=f"ema: .*{said}|ema: {said}"):
            shrink_(model, groups, masks_for(model, groups), ema=[copy.deepcopy(model), ema])
    assert model[0].out_features == 6
