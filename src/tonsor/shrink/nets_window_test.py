"""Windows, halos, splits, rotations, recurrent layers over images."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink.nets_parts_test import ConvNorm, Mlp


class Volo(nn.Module):
    """Outlook attention: unfold, weigh, fold."""

    def __init__(self, c=16, h=2, k=3):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.h = h
        self.k = k
        self.v = nn.Linear(c, c, bias=False)
        self.at = nn.Linear(c, k**4 * h)
        self.o = nn.Linear(c, c)
        self.m = Mlp(c, 32)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).permute(0, 2, 3, 1)
        batch, high, wide, width = x.shape
        v = self.v(x).permute(0, 3, 1, 2)
        k2 = self.k**2
        v = (
            F.unfold(v, self.k, padding=1)
            .reshape(batch, self.h, width // self.h, k2, high * wide)
            .permute(0, 1, 4, 3, 2)
        )
        a = self.at(x).reshape(batch, high * wide, self.h, k2, k2).permute(0, 2, 1, 3, 4).softmax(-1)
        y = (a @ v).permute(0, 1, 4, 3, 2).reshape(batch, width * k2, high * wide)
        y = F.fold(y, (high, wide), self.k, padding=1)
        x = x + self.o(y.permute(0, 2, 3, 1))
        x = x + self.m(x)
        return self.hd(x.mean((1, 2)))


class Halo(nn.Module):
    """Attention in blocks with a halo."""

    def __init__(self, c=16, h=2, b=2, hs=1):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.h = h
        self.d = c // h
        self.b = b
        self.hs = hs
        self.win = b + 2 * hs
        self.q = nn.Conv2d(c, c, 1, bias=False)
        self.kv = nn.Conv2d(c, 2 * c, 1, bias=False)
        self.rel = nn.Parameter(torch.randn(2 * self.win - 1, self.d))
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = F.avg_pool2d(self.p(x), 2)
        batch, _width, high, wide = x.shape
        nb = (high // self.b) * (wide // self.b)
        q = (
            self.q(x)
            .reshape(-1, self.d, high // self.b, self.b, wide // self.b, self.b)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(batch * self.h, self.d, -1, nb)
            .transpose(1, 3)
        )
        kv = (
            F.pad(self.kv(x), [self.hs] * 4)
            .unfold(2, self.win, self.b)
            .unfold(3, self.win, self.b)
            .reshape(batch * self.h, 2 * self.d, nb, -1)
            .permute(0, 2, 3, 1)
        )
        k, v = torch.split(kv, [self.d, self.d], -1)
        a = (q @ k.transpose(-1, -2)) * 0.3
        y = a.softmax(-1) @ v
        y = (
            y.transpose(1, 3)
            .reshape(-1, self.b, self.b, high // self.b, wide // self.b)
            .permute(0, 3, 1, 4, 2)
            .contiguous()
            .view(batch, -1, high, wide)
        )
        return self.hd(y.mean((2, 3)))


class Edge(nn.Module):
    """Splits that pass through depthwise convolutions one after the other."""

    def __init__(self, c=12):
        super().__init__()
        self.p = nn.Conv2d(3, c, 2, 2)
        w = c // 3
        self.w = w
        self.cv = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1, groups=w) for _ in range(2))
        self.m = Mlp(c, 24)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        spx = x.chunk(3, 1)
        sp = spx[0]
        o = []
        for i, c in enumerate(self.cv):
            if i > 0:
                sp = sp + spx[i]
            sp = c(sp)
            o.append(sp)
        o.append(spx[-1])
        x = x + torch.cat(o, 1)
        x = x + self.m(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.h(x.mean((2, 3)))


class IncNext(nn.Module):
    """Unequal splits through depthwise convolutions of several shapes."""

    def __init__(self, c=16):
        super().__init__()
        self.p = nn.Conv2d(3, c, 2, 2)
        g = int(c * 0.125)
        self.sp = (c - 3 * g, g, g, g)
        self.a = nn.Conv2d(g, g, 3, padding=1, groups=g)
        self.b = nn.Conv2d(g, g, (1, 5), padding=(0, 2), groups=g)
        self.c = nn.Conv2d(g, g, (5, 1), padding=(2, 0), groups=g)
        self.n = nn.BatchNorm2d(c)
        self.m1 = nn.Conv2d(c, 32, 1)
        self.m2 = nn.Conv2d(32, c, 1)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        i, a, b, c = torch.split(x, self.sp, 1)
        y = self.n(torch.cat((i, self.a(a), self.b(b), self.c(c)), 1))
        x = x + self.m2(F.gelu(self.m1(y)))
        return self.h(x.mean((2, 3)))


class RopeAttn(nn.Module):
    """Attention with rotated queries and keys."""

    def __init__(self, c=16, h=2):
        super().__init__()
        self.h = h
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c)
        self.p = nn.Linear(c, c)
        t = torch.arange(16)[:, None] * torch.rand(c // h // 2)
        self.register_buffer("sin", t.sin().repeat_interleave(2, -1))
        self.register_buffer("cos", t.cos().repeat_interleave(2, -1))
        self.n = nn.LayerNorm(c)

    def rot(self, x):
        return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)

    def forward(self, x):
        batch, count, width = x.shape

        def f(layer):
            return layer(x).reshape(batch, count, self.h, -1).transpose(1, 2)

        q, k, v = f(self.q), f(self.k), f(self.v)
        q = q * self.cos + self.rot(q) * self.sin
        k = k * self.cos + self.rot(k) * self.sin
        return self.p(
            self.n(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width))
        )


class Eva(nn.Module):
    """Rotary positions and a gated feed-forward."""

    def __init__(self, c=16):
        super().__init__()
        self.pe = nn.Conv2d(3, c, 4, 4)
        self.n = nn.LayerNorm(c)
        self.a = RopeAttn()
        self.g = nn.Linear(c, 20)
        self.x = nn.Linear(c, 20)
        self.mn = nn.LayerNorm(20)
        self.o = nn.Linear(20, c)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.pe(x).flatten(2).transpose(1, 2)
        x = x + self.a(self.n(x))
        x = x + self.o(F.silu(self.g(x)) * self.x(x))
        return self.h(x.mean(1))


class Lambda(nn.Module):
    """A lambda layer."""

    def __init__(self, c=16, h=2, qk=4):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.h = h
        self.dk = qk
        self.dv = c // h
        self.qkv = nn.Conv2d(c, h * qk + qk + self.dv, 1, bias=False)
        self.nq = nn.BatchNorm2d(h * qk)
        self.nv = nn.BatchNorm2d(self.dv)
        self.cl = nn.Conv3d(1, qk, (3, 3, 1), padding=(1, 1, 0))
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = F.avg_pool2d(self.p(x), 4)
        batch, width, high, wide = x.shape
        many = high * wide
        q, k, v = torch.split(self.qkv(x), [self.h * self.dk, self.dk, self.dv], 1)
        q = self.nq(q).reshape(batch, self.h, self.dk, many).transpose(-1, -2)
        v = self.nv(v).reshape(batch, self.dv, many).transpose(-1, -2)
        k = k.reshape(batch, self.dk, many).softmax(-1)
        cl = k @ v
        co = q @ cl.unsqueeze(1)
        pl = (
            self.cl(v.reshape(batch, 1, high, wide, self.dv))
            .reshape(batch, 1, self.dk, many, self.dv)
            .transpose(2, 3)
        )
        po = (q.unsqueeze(-2) @ pl).squeeze(-2)
        y = (co + po).transpose(-1, -2).reshape(batch, width, high, wide)
        return self.hd(y.mean((2, 3)))
