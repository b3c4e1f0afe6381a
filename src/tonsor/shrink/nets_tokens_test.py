"""Networks on tokens that are no plain transformers."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink.nets_parts_test import Blk, ConvNorm, Mlp


class XCA(nn.Module):
    """Attention between channels."""

    def __init__(self, c=16, h=4):
        super().__init__()
        self.h = h
        self.t = nn.Parameter(torch.ones(h, 1, 1))
        self.qkv = nn.Linear(c, 3 * c)
        self.p = nn.Linear(c, c)

    def forward(self, x):
        batch, count, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, count, 3, self.h, width // self.h).permute(2, 0, 3, 4, 1).unbind(0)
        )
        a = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.t
        return self.p((a.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(batch, count, width))


class Xcit(nn.Module):
    """Cross-covariance attention and a depthwise convolution on tokens."""

    def __init__(self):
        super().__init__()
        self.p = nn.Conv2d(3, 16, 4, 4)
        self.a = XCA()
        self.n = nn.BatchNorm1d(16)
        self.dw = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.m = Mlp(16, 32)
        self.h = nn.Linear(16, 3)

    def forward(self, x):
        x = self.p(x)
        batch, width, high, wide = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.a(x)
        y = x.permute(0, 2, 1).reshape(batch, width, high, wide)
        y = self.dw(y).reshape(batch, width, -1).permute(0, 2, 1)
        x = x + y
        x = x + self.m(x)
        return self.h(self.n(x.transpose(1, 2)).mean(2))


class Pvt(nn.Module):
    """Attention on keys of a smaller map."""

    def __init__(self, c=16, h=2, sr=2):
        super().__init__()
        self.h = h
        self.p = nn.Conv2d(3, c, 2, 2)
        self.q = nn.Linear(c, c)
        self.kv = nn.Linear(c, 2 * c)
        self.sr = nn.Conv2d(c, c, sr, sr)
        self.n = nn.LayerNorm(c)
        self.o = nn.Linear(c, c)
        self.f1 = nn.Linear(c, 32)
        self.dw = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.f2 = nn.Linear(32, c)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        batch, width, high, wide = x.shape
        x = x.flatten(2).transpose(1, 2)
        count = high * wide
        q = self.q(x).reshape(batch, count, self.h, -1).permute(0, 2, 1, 3)
        y = (
            self.sr(x.permute(0, 2, 1).reshape(batch, width, high, wide))
            .reshape(batch, width, -1)
            .permute(0, 2, 1)
        )
        y = self.n(y)
        k, v = self.kv(y).reshape(batch, -1, 2, self.h, width // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, -1))
        y = self.f1(x)
        y = self.dw(y.transpose(1, 2).view(batch, y.shape[2], high, wide)).flatten(2).transpose(1, 2)
        x = x + self.f2(F.gelu(y))
        return self.hd(x.mean(1))


class LinNorm(nn.Sequential):
    """A linear layer and a batch norm on tokens."""

    def __init__(self, a, b):
        super().__init__(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b))

    def forward(self, x):
        x = self[0](x)
        return self[1](x.flatten(0, 1)).reshape_as(x)


class Levit(nn.Module):
    """Attention with unequal queries and values and a bias from a table."""

    def __init__(self, c=16, kd=4, h=2, ar=2):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.h = h
        self.kd = kd
        self.vd = kd * ar
        self.val = kd * ar * h
        self.qkv = LinNorm(c, self.val + 2 * kd * h)
        self.o = nn.Sequential(nn.Hardswish(), LinNorm(self.val, c))
        self.bias = nn.Parameter(torch.randn(h, 16))
        self.register_buffer("idx", (torch.arange(16)[:, None] - torch.arange(16)).abs())
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        batch, count, _width = x.shape
        q, k, v = self.qkv(x).view(batch, count, self.h, -1).split([self.kd, self.kd, self.vd], dim=3)
        q = q.permute(0, 2, 1, 3)
        k = k.permute(0, 2, 3, 1)
        v = v.permute(0, 2, 1, 3)
        a = (q @ k * 0.5 + self.bias[:, self.idx]).softmax(-1)
        y = (a @ v).transpose(1, 2).reshape(batch, count, self.val)
        x = x + self.o(y)
        return self.hd(x.mean(1))


class MViT(nn.Module):
    """MobileViT: attention between the same places of patches."""

    def __init__(self, c=8, d=16):
        super().__init__()
        self.a = ConvNorm(3, c)
        self.b = nn.Conv2d(c, d, 1, bias=False)
        self.t = Blk(d, 4)
        self.n = nn.LayerNorm(d)
        self.pr = ConvNorm(d, c, 1)
        self.f = ConvNorm(2 * c, c)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.a(x)
        r = x
        x = self.b(x)
        batch, width, high, wide = x.shape
        p = 2
        nh, nw = high // p, wide // p
        x = (
            x.reshape(batch * width * nh, p, nw, p)
            .transpose(1, 2)
            .reshape(batch, width, nh * nw, p * p)
            .transpose(1, 3)
            .reshape(batch * p * p, nh * nw, width)
        )
        x = self.n(self.t(x))
        x = (
            x.contiguous()
            .view(batch, p * p, nh * nw, -1)
            .transpose(1, 3)
            .reshape(batch * width * nh, nw, p, p)
            .transpose(1, 2)
            .reshape(batch, width, nh * p, nw * p)
        )
        x = self.f(torch.cat((r, self.pr(x)), 1))
        return self.h(x.mean((2, 3)))
