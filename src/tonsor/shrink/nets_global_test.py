"""Attention of other kinds over maps."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink.nets_parts_test import ConvNorm


class Focal(nn.Module):
    """Focal modulation."""

    def __init__(self, c=8, levels=2):
        super().__init__()
        self.p = nn.Conv2d(3, c, 2, 2)
        self.f = nn.Conv2d(c, 2 * c + levels + 1, 1)
        self.levels = levels
        self.sp = (c, c, levels + 1)
        self.h = nn.Conv2d(c, c, 1)
        self.cs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1, groups=c) for _ in range(levels))
        self.o = nn.Conv2d(c, c, 1)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        q, ctx, g = torch.split(self.f(x), self.sp, 1)
        al = 0
        for i, c in enumerate(self.cs):
            ctx = F.gelu(c(ctx))
            al = al + ctx * g[:, i : i + 1]
        al = al + F.gelu(ctx.mean((2, 3), keepdim=True)) * g[:, self.levels :]
        return self.hd((x + self.o(q * self.h(al))).mean((2, 3)))


class Hiera(nn.Module):
    """Attention in which queries are pooled."""

    def __init__(self, c=8, h=2):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.pr = nn.Linear(c, 2 * c)
        self.qkv = nn.Linear(c, 6 * c)
        self.h = h
        self.hdim = 2 * c // h
        self.o = nn.Linear(2 * c, 2 * c)
        self.n = nn.LayerNorm(c)
        self.hd = nn.Linear(2 * c, 3)
        self.qs = 4

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        batch, _count, _ = x.shape
        y = self.n(x)
        w = 2
        q, k, v = self.qkv(y).reshape(batch, -1, w, 3, self.h, self.hdim).permute(3, 0, 4, 2, 1, 5).unbind(0)
        q = q.reshape(batch, self.h, w, self.qs, -1, self.hdim).amax(3)
        a = F.scaled_dot_product_attention(q, k, v)
        a = a.transpose(1, 3).reshape(batch, -1, self.h * self.hdim)
        x = self.pr(y).view(batch, self.qs, -1, 2 * self.hdim if False else self.pr.out_features).amax(
            1
        ) + self.o(a)
        return self.hd(x.mean(1))


class CoAtRel(nn.Module):
    """Attention on a map with an einsum for relative positions."""

    def __init__(self, c=16, h=2, n=4):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.h = h
        self.d = c // h
        self.qkv = nn.Conv2d(c, 3 * c, 1)
        self.rel = nn.Parameter(torch.randn(h, 7, 7))
        self.o = nn.Conv2d(c, c, 1)
        self.hd = nn.Linear(c, 3)
        oh = torch.zeros(n, n, 7)
        for i in range(n):
            for j in range(n):
                oh[i, j, j - i + 3] = 1
        self.register_buffer("oh", oh)

    def forward(self, x):
        x = self.p(x)
        batch, _width, high, wide = x.shape
        q, k, v = self.qkv(x).view(batch, self.h, self.d * 3, -1).chunk(3, 2)
        a = (q.transpose(-2, -1) @ k) * 0.3
        r = torch.einsum("nhw,ixh->nixw", self.rel, self.oh)
        r = torch.einsum("nixw,jyw->nijxy", r, self.oh).reshape(self.h, high * wide, high * wide)
        a = (a + r).softmax(-1)
        return self.hd((x + self.o((v @ a.transpose(-2, -1)).view(batch, -1, high, wide))).mean((2, 3)))


class MQA(nn.Module):
    """Attention whose heads share keys and values."""

    def __init__(self, c=16, h=4, d=4):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.h = h
        self.d = d
        self.q = nn.Conv2d(c, h * d, 1)
        self.k = nn.Sequential(nn.Conv2d(c, c, 3, 2, 1, groups=c), nn.BatchNorm2d(c), nn.Conv2d(c, d, 1))
        self.v = nn.Sequential(nn.Conv2d(c, c, 3, 2, 1, groups=c), nn.BatchNorm2d(c), nn.Conv2d(c, d, 1))
        self.o = nn.Conv2d(h * d, c, 1)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = F.avg_pool2d(self.p(x), 2)
        batch, _width, high, wide = x.shape
        q = self.q(x).reshape(batch, self.h, self.d, -1).transpose(-1, -2)
        k = self.k(x).reshape(batch, self.d, -1).transpose(1, 2)
        v = self.v(x).reshape(batch, self.d, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k.unsqueeze(1), v.unsqueeze(1))
        y = y.transpose(1, 2).reshape(batch, high, wide, self.h * self.d).permute(0, 3, 1, 2)
        return self.hd((x + self.o(y)).mean((2, 3)))


class LinAttn(nn.Module):
    """Linear attention with two scales."""

    def __init__(self, c=16, d=8):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.d = d
        self.qkv = nn.Conv2d(c, 3 * c, 1, bias=False)
        self.agg = nn.Conv2d(3 * c, 3 * c, 3, padding=1, groups=3 * c)
        self.o = nn.Conv2d(2 * c, c, 1)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = F.avg_pool2d(self.p(x), 2)
        y = self.qkv(x)
        y = torch.cat([y, self.agg(y)], 1)
        batch, _, high, wide = y.shape
        q, k, v = y.reshape(batch, -1, 3 * self.d, high * wide).transpose(-1, -2).chunk(3, -1)
        q, k = F.relu(q), F.relu(k)
        v = F.pad(v, (0, 1), value=1.0)
        z = q @ (k.transpose(-1, -2) @ v)
        z = z[..., :-1] / (z[..., -1:] + 1e-5)
        return self.hd((x + self.o(z.transpose(-1, -2).reshape(batch, -1, high, wide))).mean((2, 3)))


class NonLocal(nn.Module):
    """A non-local block."""

    def __init__(self, c=8):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.t = nn.Conv2d(c, 4, 1)
        self.f = nn.Conv2d(c, 4, 1)
        self.g = nn.Conv2d(c, 4, 1)
        self.z = nn.Conv2d(4, c, 1)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = F.avg_pool2d(self.p(x), 2)
        batch, _width, high, wide = x.shape
        t = self.t(x).view(batch, -1, high * wide).transpose(1, 2)
        f = self.f(x).view(batch, -1, high * wide)
        g = self.g(x).view(batch, -1, high * wide).transpose(1, 2)
        a = torch.bmm(t, f).softmax(-1)
        y = torch.bmm(a, g).transpose(1, 2).reshape(batch, -1, high, wide)
        return self.h((x + self.z(y)).mean((2, 3)))


class BAT(nn.Module):
    """Bilinear attention over blocks."""

    def __init__(self, c=16, bs=4, g=2):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.c1 = ConvNorm(c, 8, 1)
        self.cp = nn.Conv2d(8, bs * bs * g, 1)
        self.cn = nn.Conv2d(8, bs * bs * g, 1)
        self.g = g
        self.bs = bs
        self.c2 = nn.Conv2d(8, c, 1)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        o = self.c1(x)
        batch, width, high, wide = o.shape
        p = F.adaptive_max_pool2d(o, (self.bs, 1))
        F.adaptive_max_pool2d(o, (1, self.bs))
        p = (
            self.cp(p).view(batch, self.g, self.bs, -1).sigmoid()
            if False
            else self.cp(F.adaptive_avg_pool2d(o, 1)).view(batch, self.g, self.bs, self.bs).sigmoid()
        )
        p = p / p.sum(3, keepdim=True)
        p = (
            p.view(batch, self.g, 1, self.bs, self.bs)
            .expand(batch, self.g, width // self.g, self.bs, self.bs)
            .contiguous()
            .view(batch, width, self.bs, self.bs)
        )
        y = F.interpolate(p, (high, wide))
        return self.h(self.c2(o * y).mean((2, 3)))


class GCSA(nn.Module):
    """Windows that share the queries of the whole image."""

    def __init__(self, c=16, h=4):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.h = h
        self.kv = nn.Linear(c, 2 * c)
        self.gq = nn.Conv2d(c, c, 1)
        self.o = nn.Linear(c, c)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        g = F.adaptive_max_pool2d(self.gq(x), 2)
        batch, width = g.shape[:2]
        y = (
            x.permute(0, 2, 3, 1)
            .view(batch, 2, 2, 2, 2, width)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, 4, width)
        )
        k, v = self.kv(y).reshape(batch * 4, 4, 2, self.h, width // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        q = (
            g.permute(0, 2, 3, 1)
            .reshape(batch, 1, 4, self.h, width // self.h)
            .expand(-1, 4, -1, -1, -1)
            .reshape(batch * 4, 4, self.h, width // self.h)
            .transpose(1, 2)
        )
        z = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.hd(
            self.o(z.transpose(1, 2).reshape(batch * 4, 4, width)).reshape(batch, 16, width).mean(1)
        )
