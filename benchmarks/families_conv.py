"""Convolutional networks of many families, small and from memory, for the table of what shrinks."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    """Return a convolution with its norm and activation."""
    return nn.Sequential(
        nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act or nn.ReLU(inplace=True)
    )


def bare(i: int, o: int, k: int = 1, s: int = 1, g: int = 1) -> nn.Sequential:
    """Return a convolution with its norm."""
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o))


def ended(body: nn.Module, width: int) -> nn.Sequential:
    """Return a classifier."""
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


class Residual(nn.Module):
    """Add a shortcut to a body."""

    def __init__(self, body, short=None, act=None):
        super().__init__()
        self.body, self.short, self.act = body, short or nn.Identity(), act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.short(x))


class SE(nn.Module):
    """Weigh channels by what a small network says of their means."""

    def __init__(self, width, gate=None):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)
        self.gate = gate or nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Cat(nn.Module):
    """Lay the outputs of branches side by side."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def squeezenet():
    """Return a SqueezeNet: fire modules, a convolution as classifier."""

    def fire(i, s, e):
        return nn.Sequential(
            nn.Conv2d(i, s, 1), nn.ReLU(), Cat(nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)), nn.ReLU()
        )

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        fire(8, 4, 8),
        fire(16, 4, 8),
        nn.Dropout(),
        nn.Conv2d(16, 3, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def inception():
    """Return an Inception v3: factorised branches, pooled branches, a reduction."""
    a = Cat(
        conv(8, 4, 1),
        nn.Sequential(conv(8, 4, 1), conv(4, 6, 5)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(8, 4, 1)),
    )
    row, column = nn.Conv2d(14, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 6, (7, 1), padding=(3, 0))
    b = Cat(
        conv(14, 4, 1),
        nn.Sequential(row, nn.ReLU(), column, nn.ReLU()),
        nn.Sequential(
            conv(14, 4, 1),
            Cat(nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 4, (3, 1), padding=(1, 0))),
        ),
    )
    c = Cat(conv(18, 8, 3, 2), nn.MaxPool2d(3, 2, 1))
    return ended(nn.Sequential(conv(3, 8), a, b, c), 26)


class Scaled(nn.Module):
    """Add a scaled branch, as Inception-ResNet does."""

    def __init__(self, body, scale):
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x) * self.scale)


def inception_resnet():
    """Return an Inception-ResNet."""
    block = nn.Sequential(Cat(conv(8, 4, 1), nn.Sequential(conv(8, 4, 1), conv(4, 4))), nn.Conv2d(8, 8, 1))
    return ended(nn.Sequential(conv(3, 8), Scaled(block, 0.17), nn.MaxPool2d(2), conv(8, 12)), 12)


def separable(i, o, s=1):
    """Return a depthwise separable convolution."""
    return nn.Sequential(
        nn.Conv2d(i, i, 3, s, 1, groups=i, bias=False), nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o)
    )


def xception():
    """Return an Xception: separable convolutions around a shortcut."""
    body = nn.Sequential(separable(8, 12), nn.ReLU(), separable(12, 12), nn.MaxPool2d(3, 2, 1))
    return ended(
        nn.Sequential(
            conv(3, 8), Residual(body, bare(8, 12, 1, 2), nn.Identity()), nn.ReLU(), separable(12, 16)
        ),
        16,
    )


def inverted(i, o, e=3, k=3, s=1, act=nn.ReLU6, se=None):
    """Return an inverted residual block."""
    body = [
        conv(i, i * e, 1, act=act()),
        conv(i * e, i * e, k, s, i * e, act()),
        se(i * e) if se else nn.Identity(),
        bare(i * e, o),
    ]
    return Residual(nn.Sequential(*body), None, nn.Identity()) if i == o and s == 1 else nn.Sequential(*body)


def mnasnet():
    """Return a MNASNet."""
    return ended(
        nn.Sequential(
            conv(3, 8), separable(8, 6), inverted(6, 8, k=5), inverted(8, 8, se=SE), conv(8, 16, 1)
        ),
        16,
    )


def mobilenet_v3():
    """Return a MobileNetV3: hard swish, hard gates, a convolution behind the pooling."""
    blocks = nn.Sequential(
        conv(3, 8, act=nn.Hardswish()),
        inverted(8, 8, se=lambda w: SE(w, nn.Hardsigmoid())),
        inverted(8, 8, act=nn.Hardswish),
    )
    return nn.Sequential(
        blocks, nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 16, 1), nn.Hardswish(), nn.Flatten(), nn.Linear(16, 3)
    )


class MixConv(nn.Module):
    """Depthwise kernels of several sizes, each for a part of the channels."""

    def __init__(self, width):
        super().__init__()
        self.parts = [width // 2, width - width // 2]
        self.convs = nn.ModuleList(
            nn.Conv2d(w, w, k, padding=k // 2, groups=w) for w, k in zip(self.parts, (3, 5), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [c(part) for c, part in zip(self.convs, torch.split(x, self.parts, 1), strict=True)], 1
        )


def mixnet():
    """Return a MixNet."""
    block = nn.Sequential(conv(8, 24, 1), MixConv(24), nn.BatchNorm2d(24), nn.SiLU(), SE(24), bare(24, 8))
    return ended(nn.Sequential(conv(3, 8), Residual(block, None, nn.Identity()), conv(8, 12)), 12)


def regnet():
    """Return a RegNetY: grouped bottlenecks with squeeze-excite."""
    block = nn.Sequential(conv(8, 16, 1), conv(16, 16, 3, 2, 4), SE(16), bare(16, 16))
    return ended(nn.Sequential(conv(3, 8), Residual(block, bare(8, 16, 1, 2))), 16)


class Attend(nn.Module):
    """Weigh channels, then places, by means and maxima (CBAM)."""

    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 1))
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.place(both))


def cbam():
    """Return a ResNet with CBAM."""
    block = Residual(nn.Sequential(conv(8, 12), bare(12, 8, 3), Attend(8)))
    return ended(nn.Sequential(conv(3, 8), block, conv(8, 12)), 12)


def convmixer():
    """Return a ConvMixer."""
    block = nn.Sequential(
        Residual(
            nn.Sequential(nn.Conv2d(12, 12, 5, groups=12, padding="same"), nn.GELU(), nn.BatchNorm2d(12)),
            None,
            nn.Identity(),
        ),
        nn.Conv2d(12, 12, 1),
        nn.GELU(),
        nn.BatchNorm2d(12),
    )
    return ended(nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.GELU(), nn.BatchNorm2d(12), block), 12)


FAMILIES = {
    "SqueezeNet": squeezenet,
    "Inception": inception,
    "Inception-ResNet": inception_resnet,
    "Xception": xception,
    "MNASNet": mnasnet,
    "MobileNetV3": mobilenet_v3,
    "MixNet": mixnet,
    "RegNetY": regnet,
    "CBAM": cbam,
    "ConvMixer": convmixer,
}
