"""What the shrink benchmarks cut: shapes of ResNet-50, ViT-B, Swin-T and GPT-2; and their peer, checked."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.down = nn.Identity()
        if stride > 1 or channels != out:
            self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, or its projection, plus the branch."""
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        return torch.relu(self.down(x) + self.bn3(self.conv3(h)))


def resnet_50() -> nn.Module:
    """Return a network with the shapes of ResNet-50."""
    blocks, channels = [], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for number in range(count):
            blocks.append(Bottleneck(channels, 64 * 2**stage, 2 if stage and not number else 1))
            channels = 256 * 2**stage
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Only(nn.Module):
    """A transformer of the transformers library that takes and returns one tensor."""

    def __init__(self, inner: nn.Module, key: str) -> None:
        super().__init__()
        self.inner, self.key = inner, key

    def forward(self, x: Tensor) -> Tensor:
        """Return one output."""
        return self.inner(x)[self.key]


def vit_base() -> nn.Module:
    """Return a network with the shapes of ViT-B/16, with random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    return Only(ViTForImageClassification(ViTConfig(num_labels=1000)), "logits")


def gpt_2() -> nn.Module:
    """Return a network with the shapes of GPT-2 small, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return Only(GPT2LMHeadModel(GPT2Config(use_cache=False)), "logits")


def swin_tiny() -> nn.Module:
    """Return a network with the shapes of Swin-T, with random weights."""
    from transformers import SwinConfig, SwinForImageClassification

    return Only(SwinForImageClassification(SwinConfig(num_labels=1000)), "logits")


LARGE: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "ResNet-50": (resnet_50, torch.randn(1, 3, 224, 224)),
    "ViT-B": (vit_base, torch.randn(1, 3, 224, 224)),
    "Swin-T": (swin_tiny, torch.randn(1, 3, 224, 224)),
    "GPT-2": (gpt_2, torch.arange(16).view(1, 16)),
}


def last_layer(model: nn.Module) -> list[nn.Module]:
    """Return the layer that makes the output, which torch-pruning must be told to leave alone."""
    return [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1:]


def peer_pruner(model: nn.Module, example: Tensor, *, ratio: float = 0.5, **options: Any) -> Any:
    """Return torch-pruning's pruner with its L2 importance, heads told where there are some."""
    import torch_pruning as tp

    heads = {}
    for module in model.modules():
        if all(hasattr(module, part) for part in ("query", "key", "value")):
            heads |= dict.fromkeys((module.query, module.key, module.value), module.num_attention_heads)
    return tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=last_layer(model),
        num_heads=heads,
        **options,
    )


def peer_checked(model: nn.Module, example: Tensor, x: Tensor) -> str:
    """Prune with torch-pruning, zero the same channels in a dense copy, and compare on an input."""
    dense = copy.deepcopy(model)
    places = Places(model)
    normed = False
    for group in peer_pruner(model, example).step(interactive=True):
        for dep, index in group:
            normed |= isinstance(dep.target.module, NORMS)
            places.zero(dense, dep, index)
        group.prune()
    with torch.no_grad():
        small, masked = model(x), dense(x)
    left = sum(p.numel() for p in model.parameters()) / places.size
    apart = float((small - masked).abs().max() / masked.abs().max())
    if apart < 1e-5:
        return f"right, {left:.0%} left"
    return (
        "runs; not what masking gives, a norm lost channels"
        if normed
        else f"wrong by {apart:.0e} of the largest"
    )


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


class Places:
    """Know which channels of the dense model those of the pruned one were: groups are cut one by one."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.raw = {id(p): name for name, p in model.named_parameters()}
        self.size = sum(p.numel() for p in model.parameters())
        self.left: dict[tuple[str, int], list[int]] = {}

    def zero(self, dense: nn.Module, dep: Any, index: list[int]) -> None:
        """Set to zero in the dense model what a step is about to cut."""
        target = dep.target.module
        if isinstance(target, nn.Parameter):
            name = self.raw[id(target)]
            self._fill(name, dict(dense.named_parameters())[name], dep.target.pruning_dim, index)
            return
        name = self.names.get(id(target), "")
        module = dict(dense.named_modules()).get(name)
        weight = getattr(module, "weight", None)
        if weight is None:
            return
        turned = isinstance(module, (nn.ConvTranspose2d, nn.Embedding))
        depthwise = getattr(module, "groups", 1) > 1
        inputs = "in_channels" in dep.handler.__name__ and weight.ndim > 1 and not depthwise
        self._fill(f"{name}.weight", weight, int(inputs != turned) if weight.ndim > 1 else 0, index)
        if not inputs and getattr(module, "bias", None) is not None:
            self._fill(f"{name}.bias", module.bias, 0, index)

    def _fill(self, name: str, tensor: Tensor, dim: int, index: list[int]) -> None:
        """Write zeros at the places that an index of today had at first."""
        left = self.left.setdefault((name, dim), list(range(tensor.shape[dim])))
        own = [left[i] for i in index if i < len(left)]
        tensor.data.index_fill_(dim, torch.tensor(own, dtype=torch.int64), 0)
        self.left[name, dim] = [i for i in left if i not in set(own)]
