"""Networks of many families: each comes out smaller, runs, trains, and computes what the masked one does."""

import copy

import pytest
import torch
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink import nets_global_test as global_
from tonsor.shrink import nets_mixer_test as mixer
from tonsor.shrink import nets_mobile_test as mobile
from tonsor.shrink import nets_residual_test as residual
from tonsor.shrink import nets_tokens_test as tokens
from tonsor.shrink import nets_vision_test as vision
from tonsor.shrink import nets_window_test as window
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow

# Every network takes (2, 3, 16, 16) and returns (2, 3).
FAMILIES = {
    "ResNeXt": residual.resnext,
    "Res2Net": residual.res2net,
    "SKNet": residual.sknet,
    "ResNeSt": residual.resnest,
    "NFNet": residual.nfnet,
    "BiT": residual.bit,
    "ECA-Net": residual.eca,
    "RepVGG": residual.repvgg,
    "TResNet": residual.tres,
    "HRNet": residual.HR,
    "EfficientNet": mobile.effnet,
    "ConvNeXt": mobile.convnext,
    "GhostNet": mobile.ghost,
    "CSPNet": mobile.csp,
    "ShuffleNet V2": mobile.shufflev2,
    "DenseNet": mobile.densenet,
    "DPN": mobile.dpn,
    "StarNet": mobile.Star,
    "ViT": vision.vit,
    "ViT, fused": vision.vitf,
    "Swin": vision.Swin,
    "CaiT": vision.Cait,
    "CrossViT": vision.CrossV,
    "XCiT": tokens.Xcit,
    "PVT": tokens.Pvt,
    "LeViT": tokens.Levit,
    "MobileViT": tokens.MViT,
    "Mixer": mixer.Mixer,
    "PoolFormer": mixer.Pool,
    "TNT": mixer.TNT,
    "NesT": mixer.Nest,
    "Sequencer": mixer.Seq,
    "ReXNet": mixer.Rex,
    "DaViT": mixer.DaVit,
    "VOLO": window.Volo,
    "HaloNet": window.Halo,
    "EdgeNeXt": window.Edge,
    "InceptionNeXt": window.IncNext,
    "EVA": window.Eva,
    "LambdaNet": window.Lambda,
    "FocalNet": global_.Focal,
    "Hiera": global_.Hiera,
    "CoAtNet": global_.CoAtRel,
    "MobileNetV4": global_.MQA,
    "EfficientViT": global_.LinAttn,
    "Non-local": global_.NonLocal,
    "BAT": global_.BAT,
    "GCViT": global_.GCSA,
}
FROZEN = {"gMLP": (mixer.Gmlp, "layer_norm"), "ConvNeXt V2": (mobile.convnextv2, "aten.mean")}


def ready(make):
    """Return a network in float64 whose norms are not those it starts with."""
    torch.manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, torch.randn(2, 3, 16, 16).double()


def halved(model, groups):
    """Return masks that remove half of the units of each group, drawn at random."""
    order = torch.Generator().manual_seed(1)
    keep = {
        name: torch.randperm(group.units, generator=order) < max(1, group.units - group.units // 2)
        for name, group in groups.groups.items()
    }
    return groups.expand(keep, dict(model.named_parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_comes_out_smaller_runs_and_computes_what_the_masked_one_does(family):
    model, x = ready(FAMILIES[family])
    groups = channel_groups(model, x)
    masks = halved(model, groups)
    single, masked = copy.deepcopy(model).float(), copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    parameters = list(model.parameters())
    shrunk = shrink_(model, groups, masks)
    assert shrunk.after < shrunk.before
    assert shrunk.max_difference <= 1e-12
    for fresh in (torch.randn_like(x), torch.randn(5, 3, 16, 16).double()):
        torch.testing.assert_close(model(fresh), masked(fresh), rtol=1e-9, atol=1e-9)
    assert shrink_(single, channel_groups(single, x.float()), masks).max_difference <= 1e-5
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(x).square().sum().backward()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("family", FROZEN)
def test_what_is_frozen_by_its_norms_says_so_and_is_left_as_it_is(family):
    make, reason = FROZEN[family]
    model, x = ready(make)
    groups = channel_groups(model, x)
    assert groups.groups == {}
    assert any(reason in group.reason for group in groups.frozen)


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch.export says it of every LSTM
@pytest.mark.parametrize("family", ["ResNeXt", "ViT", "Sequencer"])
def test_a_shrunk_network_is_exported_and_shrunk_again(family):
    model, x = ready(FAMILIES[family])
    groups = channel_groups(model, x)
    shrink_(model, groups, halved(model, groups))
    program = torch.export.export(model, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), model(x))
    groups = channel_groups(model, x)
    masks = halved(model, groups)
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    assert shrink_(model, groups, masks).removed
    torch.testing.assert_close(model(x), masked(x), rtol=1e-9, atol=1e-9)
