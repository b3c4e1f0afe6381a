"""Vision transformers."""

import torch
from torch import nn

from tonsor.shrink.nets_parts_test import Attn, Blk, Mlp, Vit


def vit():
    return Vit()


def vitf():
    return Vit(blk=lambda c: Blk(c, 4, True))


class WinAttn(nn.Module):
    """Attention in windows with relative position bias."""

    def __init__(self, c, h, w):
        super().__init__()
        self.h = h
        self.w = w
        self.scale = (c // h) ** -0.5
        self.qkv = nn.Linear(c, 3 * c)
        self.proj = nn.Linear(c, c)
        self.t = nn.Parameter(torch.randn((2 * w - 1) ** 2, h))
        co = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
        r = (co[:, :, None] - co[:, None]).permute(1, 2, 0) + w - 1
        r[..., 0] *= 2 * w - 1
        self.register_buffer("i", r.sum(-1))

    def forward(self, x, mask=None):
        batch, count, _width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.h, -1).permute(2, 0, 3, 1, 4).unbind(0)
        a = q * self.scale @ k.transpose(-2, -1) + self.t[self.i.view(-1)].view(
            self.w**2, self.w**2, -1
        ).permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            nw = mask.shape[0]
            a = a.view(-1, nw, self.h, count, count) + mask.unsqueeze(1).unsqueeze(0)
            a = a.view(-1, self.h, count, count)
        return self.proj((a.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, -1))


class SwinB(nn.Module):
    """A Swin block, shifted or not."""

    def __init__(self, c=16, h=4, w=4, shift=0, res=8):
        super().__init__()
        self.n1 = nn.LayerNorm(c)
        self.a = WinAttn(c, h, w)
        self.n2 = nn.LayerNorm(c)
        self.m = Mlp(c, 32)
        self.s = shift
        self.w = w
        m = None
        if shift:
            im = torch.zeros(1, res, res, 1)
            cnt = 0
            for hs in (slice(0, -w), slice(-w, -shift), slice(-shift, None)):
                for ws in (slice(0, -w), slice(-w, -shift), slice(-shift, None)):
                    im[:, hs, ws] = cnt
                    cnt += 1
            mw = im.view(1, res // w, w, res // w, w, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w)
            m = mw.unsqueeze(1) - mw.unsqueeze(2)
            m = m.masked_fill(m != 0, -100.0)
        self.register_buffer("mask", m)

    def forward(self, x):
        batch, high, wide, width = x.shape
        y = self.n1(x)
        w = self.w
        if self.s:
            y = torch.roll(y, (-self.s, -self.s), (1, 2))
        y = (
            y.view(batch, high // w, w, wide // w, w, width)
            .permute(0, 1, 3, 2, 4, 5)
            .contiguous()
            .view(-1, w * w, width)
        )
        y = (
            self.a(y, self.mask)
            .view(-1, high // w, wide // w, w, w, width)
            .permute(0, 1, 3, 2, 4, 5)
            .contiguous()
            .view(batch, high, wide, -1)
        )
        if self.s:
            y = torch.roll(y, (self.s, self.s), (1, 2))
        x = x + y
        return x + self.m(self.n2(x))


class Merge(nn.Module):
    """Four neighbours become one token."""

    def __init__(self, c):
        super().__init__()
        self.n = nn.LayerNorm(4 * c)
        self.r = nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x):
        batch, high, wide, width = x.shape
        x = x.reshape(batch, high // 2, 2, wide // 2, 2, width).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.r(self.n(x))


class Swin(nn.Module):
    """Three Swin blocks in two stages."""

    def __init__(self):
        super().__init__()
        self.p = nn.Conv2d(3, 16, 2, 2)
        self.b = nn.Sequential(SwinB(), SwinB(shift=2), Merge(16), SwinB(32, 4, 4, 0, 4))
        self.n = nn.LayerNorm(32)
        self.h = nn.Linear(32, 3)

    def forward(self, x):
        return self.h(self.n(self.b(self.p(x).permute(0, 2, 3, 1))).mean((1, 2)))


class ClsAttn(nn.Module):
    """Attention of the class token alone."""

    def __init__(self, c, h):
        super().__init__()
        self.h = h
        self.q = nn.Linear(c, c)
        self.k = nn.Linear(c, c)
        self.v = nn.Linear(c, c)
        self.p = nn.Linear(c, c)

    def forward(self, x):
        batch, count, width = x.shape
        q = self.q(x[:, 0]).unsqueeze(1).reshape(batch, 1, self.h, width // self.h).permute(0, 2, 1, 3)
        k = self.k(x).reshape(batch, count, self.h, width // self.h).permute(0, 2, 1, 3)
        v = self.v(x).reshape(batch, count, self.h, width // self.h).permute(0, 2, 1, 3)
        a = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.p((a @ v).transpose(1, 2).reshape(batch, 1, width))


class TalkAttn(Attn):
    """Attention whose heads are mixed before and after the softmax."""

    def __init__(self, c, h):
        super().__init__(c, h)
        self.l = nn.Linear(h, h)
        self.w = nn.Linear(h, h)

    def forward(self, x):
        batch, count, width = x.shape
        qkv = (
            self.qkv(x)
            .reshape(batch, count, 3, self.num_heads, width // self.num_heads)
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        a = q @ k.transpose(-2, -1)
        a = self.l(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        a = self.w(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((a @ v).transpose(1, 2).reshape(batch, count, width))


class Cait(nn.Module):
    """Talking heads, then class attention."""

    def __init__(self):
        super().__init__()
        self.p = nn.Conv2d(3, 16, 4, 4)
        self.t = TalkAttn(16, 4)
        self.n = nn.LayerNorm(16)
        self.c = ClsAttn(16, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.m = Mlp(16, 32)
        self.h = nn.Linear(16, 3)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        x = x + self.t(self.n(x))
        c = self.cls.expand(x.shape[0], -1, -1)
        c = c + self.c(torch.cat([c, x], 1))
        c = c + self.m(c)
        return self.h(c[:, 0])


class CrossV(nn.Module):
    """Two transformers side by side."""

    def __init__(self):
        super().__init__()
        self.a = Vit(16)
        self.b = Vit(8, lambda c: Blk(c, 2))
        self.pa = nn.Linear(16, 8)

    def forward(self, x):
        return self.a(x) + self.b(x)
