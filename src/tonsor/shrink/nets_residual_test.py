"""Residual networks: grouped, split, weighted by their own outputs."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink.nets_parts_test import Bottle, ConvNorm, Head


def resnext():
    return Head(nn.Sequential(ConvNorm(3, 8), Bottle(8, 8, 16, 4), Bottle(16, 8, 16, 4, 1)), 16)


class Res2(nn.Module):
    """Scales inside a block: parts of a split, each added to the next."""

    def __init__(self, c=16, w=4, n=4):
        super().__init__()
        self.w = w
        self.a = ConvNorm(c, w * n, 1)
        self.cs = nn.ModuleList(ConvNorm(w, w) for _ in range(n - 1))
        self.b = ConvNorm(w * n, c, 1, act=False)

    def forward(self, x):
        sp = torch.split(self.a(x), self.w, 1)
        out = []
        y = sp[0]
        for i, c in enumerate(self.cs):
            y = c(sp[i] if i == 0 else y + sp[i])
            out.append(y)
        out.append(sp[-1])
        return F.relu(self.b(torch.cat(out, 1)) + x)


def res2net():
    return Head(nn.Sequential(ConvNorm(3, 16), Res2(), Res2()), 16)


class SK(nn.Module):
    """Selective kernels: two branches weighted by a softmax over them."""

    def __init__(self, c=8, r=4):
        super().__init__()
        self.ps = nn.ModuleList([ConvNorm(c, c, 3), ConvNorm(c, c, 5)])
        self.fr = nn.Conv2d(c, r, 1, bias=False)
        self.bn = nn.BatchNorm2d(r)
        self.fs = nn.Conv2d(r, 2 * c, 1, bias=False)
        self.n = 2

    def forward(self, x):
        xs = torch.stack([p(x) for p in self.ps], 1)
        a = xs.sum(1).mean((2, 3), keepdim=True)
        a = self.fs(F.relu(self.bn(self.fr(a))))
        batch, width, high, wide = a.shape
        a = a.view(batch, self.n, width // self.n, high, wide).softmax(1)
        return (xs * a).sum(1)


def sknet():
    return Head(nn.Sequential(ConvNorm(3, 8), SK(), ConvNorm(8, 8)), 8)


class SplitAttn(nn.Module):
    """Split attention, as in ResNeSt."""

    def __init__(self, c=8, g=2, radix=2):
        super().__init__()
        self.radix = radix
        self.card = g
        self.conv = nn.Conv2d(c, c * radix, 3, 1, 1, groups=g * radix, bias=False)
        self.bn = nn.BatchNorm2d(c * radix)
        self.f1 = nn.Conv2d(c, 8, 1, groups=g)
        self.f2 = nn.Conv2d(8, c * radix, 1, groups=g)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        batch, both, high, wide = x.shape
        x = x.reshape((batch, self.radix, both // self.radix, high, wide))
        g = x.sum(1).mean((2, 3), keepdim=True)
        a = self.f2(F.relu(self.f1(g)))
        a = (
            a.view(batch, self.card, self.radix, -1)
            .transpose(1, 2)
            .softmax(1)
            .reshape(batch, -1)
            .view(batch, -1, 1, 1)
        )
        return (x * a.reshape((batch, self.radix, both // self.radix, 1, 1))).sum(1)


def resnest():
    return Head(nn.Sequential(ConvNorm(3, 8), SplitAttn(), ConvNorm(8, 8, 1)), 8)


class StdConv(nn.Conv2d):
    """Scaled weight standardisation by a batch norm, as in NFNets."""

    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x):
        w = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


def nfnet():
    return Head(
        nn.Sequential(
            StdConv(3, 8, 3, 1, 1), nn.SiLU(), StdConv(8, 12, 3, 1, 1), nn.SiLU(), StdConv(12, 8, 1)
        ),
        8,
    )


class StdConv2(nn.Conv2d):
    """Weight standardisation, as in BiT."""

    def forward(self, x):
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        w = (w - m) / (v + 1e-5).sqrt()
        return self._conv_forward(x, w, self.bias)


def bit():
    return Head(
        nn.Sequential(
            StdConv2(3, 8, 3, 1, 1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            StdConv2(8, 12, 3, 1, 1),
            nn.GroupNorm(4, 12),
            nn.ReLU(),
            StdConv2(12, 8, 1),
        ),
        8,
    )


class ECA(nn.Module):
    """A gate by a convolution over neighbouring channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = x.mean((2, 3)).view(x.shape[0], 1, -1)
        y = self.conv(y).view(x.shape[0], -1, 1, 1).sigmoid()
        return x * y.expand_as(x)


def eca():
    return Head(nn.Sequential(ConvNorm(3, 8), ECA(), ConvNorm(8, 8), ConvNorm(8, 8)), 8)


class S2D(nn.Module):
    """Blocks of pixels become channels."""

    def forward(self, x):
        count, width, high, wide = x.shape
        return (
            x.view(count, width, high // 2, 2, wide // 2, 2)
            .permute(0, 3, 5, 1, 2, 4)
            .contiguous()
            .view(count, width * 4, high // 2, wide // 2)
        )


def tres():
    return Head(nn.Sequential(S2D(), ConvNorm(12, 8), Bottle(8, 4, 8)), 8)


class Rep(nn.Module):
    """Three branches before a ReLU."""

    def __init__(self, c=8):
        super().__init__()
        self.i = nn.BatchNorm2d(c)
        self.a = ConvNorm(c, c, 3, act=False)
        self.b = ConvNorm(c, c, 1, act=False)

    def forward(self, x):
        return F.relu(self.i(x) + self.a(x) + self.b(x))


def repvgg():
    return Head(nn.Sequential(ConvNorm(3, 8), Rep(), Rep(), ConvNorm(8, 12, 3, 2), Rep(12)), 12)


class HR(nn.Module):
    """Two resolutions that exchange maps."""

    def __init__(self):
        super().__init__()
        self.st = ConvNorm(3, 8)
        self.t = ConvNorm(8, 12, 3, 2)
        self.a = Bottle(8, 4, 8)
        self.b = Bottle(12, 4, 12)
        self.up = nn.Sequential(ConvNorm(12, 8, 1, act=False), nn.Upsample(scale_factor=2))
        self.dn = ConvNorm(8, 12, 3, 2, act=False)
        self.h = nn.Linear(20, 3)

    def forward(self, x):
        x = self.st(x)
        a, b = self.a(x), self.b(self.t(x))
        c, d = F.relu(a + self.up(b)), F.relu(b + self.dn(a))
        return self.h(torch.cat([c.mean((2, 3)), d.mean((2, 3))], 1))
