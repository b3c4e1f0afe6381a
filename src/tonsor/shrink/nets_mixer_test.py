"""Networks that mix tokens without attention, or inside blocks."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink.nets_parts_test import Blk, ConvNorm, Mlp


class Mixer(nn.Module):
    """An MLP over positions and one over channels."""

    def __init__(self, c=16, n=16):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.n1 = nn.LayerNorm(c)
        self.t = Mlp(n, 24)
        self.n2 = nn.LayerNorm(c)
        self.m = Mlp(c, 32)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        x = x + self.t(self.n1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.m(self.n2(x))
        return self.h(x.mean(1))


class Gmlp(nn.Module):
    """A spatial gate."""

    def __init__(self, c=16, n=16):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.n = nn.LayerNorm(c)
        self.a = nn.Linear(c, 48)
        self.sn = nn.LayerNorm(24)
        self.sp = nn.Linear(n, n)
        self.b = nn.Linear(24, c)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        u, v = F.gelu(self.a(self.n(x))).chunk(2, -1)
        v = self.sp(self.sn(v).transpose(-1, -2))
        x = x + self.b(u * v.transpose(-1, -2))
        return self.h(x.mean(1))


class Pool(nn.Module):
    """Pooling in place of attention, layer scale."""

    def __init__(self, c=8):
        super().__init__()
        self.p = nn.Conv2d(3, c, 2, 2)
        self.n = nn.GroupNorm(1, c)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.ls = nn.Parameter(torch.rand(c, 1, 1))
        self.a = nn.Conv2d(c, 32, 1)
        self.b = nn.Conv2d(32, c, 1)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        y = self.n(x)
        x = x + self.ls * (self.pool(y) - y)
        x = x + self.b(F.gelu(self.a(x)))
        return self.h(x.mean((2, 3)))


class Seq(nn.Module):
    """Two LSTMs over rows and columns."""

    def __init__(self, c=16):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.n = nn.LayerNorm(c)
        self.v = nn.LSTM(c, 6, batch_first=True, bidirectional=True)
        self.l = nn.LSTM(c, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(24, c)
        self.m = Mlp(c, 32)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).permute(0, 2, 3, 1)
        batch, high, wide, width = x.shape
        y = self.n(x)
        v = (
            self.v(y.permute(0, 2, 1, 3).reshape(-1, high, width))[0]
            .reshape(batch, wide, high, -1)
            .permute(0, 2, 1, 3)
        )
        rows = self.l(y.reshape(-1, wide, width))[0].reshape(batch, high, wide, -1)
        x = x + self.fc(torch.cat([v, rows], -1))
        x = x + self.m(x)
        return self.h(x.mean((1, 2)))


class Rex(nn.Module):
    """A shortcut added to the first channels only."""

    def __init__(self):
        super().__init__()
        self.p = ConvNorm(3, 8)
        self.a = ConvNorm(8, 16, 1)
        self.b = nn.Conv2d(16, 12, 1)
        self.h = nn.Linear(12, 3)

    def forward(self, x):
        x = self.p(x)
        y = self.b(self.a(x))
        y = torch.cat([y[:, 0:8] + x, y[:, 8:]], 1)
        return self.h(y.mean((2, 3)))


class Nest(nn.Module):
    """Attention inside blocks of an image."""

    def __init__(self, c=16, h=4):
        super().__init__()
        self.p = nn.Conv2d(3, c, 2, 2)
        self.pos = nn.Parameter(torch.randn(1, 4, 16, c))
        self.n = nn.LayerNorm(c)
        self.h = h
        self.qkv = nn.Linear(c, 3 * c)
        self.o = nn.Linear(c, c)
        self.m = Mlp(c, 32)
        self.cv = nn.Conv2d(c, 24, 3, padding=1)
        self.hd = nn.Linear(24, 3)

    def forward(self, x):
        x = self.p(x).permute(0, 2, 3, 1)
        batch, _high, _wide, width = x.shape
        x = x.reshape(batch, 2, 4, 2, 4, width).transpose(2, 3).reshape(batch, 4, 16, width) + self.pos
        y = self.n(x)
        q, k, v = (
            self.qkv(y).reshape(batch, 4, 16, 3, self.h, width // self.h).permute(3, 0, 4, 1, 2, 5).unbind(0)
        )
        y = (
            ((q * 0.5 @ k.transpose(-2, -1)).softmax(-1) @ v)
            .permute(0, 2, 3, 4, 1)
            .reshape(batch, 4, 16, width)
        )
        x = x + self.o(y)
        x = x + self.m(x)
        x = (
            x.reshape(batch, 2, 2, 4, 4, width)
            .transpose(2, 3)
            .reshape(batch, 8, 8, width)
            .permute(0, 3, 1, 2)
        )
        return self.hd(F.max_pool2d(self.cv(x), 3, 2, 1).mean((2, 3)))


class TNT(nn.Module):
    """Transformers of pixels inside one of patches."""

    def __init__(self):
        super().__init__()
        self.p = nn.Conv2d(3, 8, 3, 2, 1)
        self.i = Blk(8, 2)
        self.n = nn.LayerNorm(8 * 16)
        self.pr = nn.Linear(8 * 16, 16)
        self.o = Blk(16, 4)
        self.h = nn.Linear(16, 3)

    def forward(self, x):
        batch = x.shape[0]
        x = F.unfold(self.p(x), 4, stride=4).transpose(1, 2).reshape(batch * 4, 8, 16).transpose(1, 2)
        x = self.i(x)
        y = self.pr(self.n(x.reshape(batch, 4, -1)))
        return self.h(self.o(y).mean(1))


class DaVit(nn.Module):
    """Attention between channels in groups."""

    def __init__(self, c=16, h=4):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.h = h
        self.qkv = nn.Linear(c, 3 * c)
        self.o = nn.Linear(c, c)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        batch, count, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, count, 3, self.h, width // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        )
        a = (k * 0.2).transpose(-1, -2) @ v
        a = a.softmax(-1)
        y = (a @ q.transpose(-1, -2)).transpose(-1, -2)
        return self.hd((x + self.o(y.transpose(1, 2).reshape(batch, count, width))).mean(1))
