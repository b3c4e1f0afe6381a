"""Parts that the larger test networks have in common."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class ConvNorm(nn.Sequential):
    """A convolution, a batch norm, and mostly a ReLU."""

    def __init__(self, i, o, k=3, st=1, g=1, act=True):
        super().__init__(
            nn.Conv2d(i, o, k, st, k // 2, groups=g, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(True) if act else nn.Identity(),
        )


class Head(nn.Module):
    """A body, the mean over positions, and a classifier."""

    def __init__(self, body, c, n=3):
        super().__init__()
        self.body = body
        self.fc = nn.Linear(c, n)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class Bottle(nn.Module):
    """A residual bottleneck, plain or grouped."""

    def __init__(self, i, w, o, g=1, st=1):
        super().__init__()
        self.a = ConvNorm(i, w, 1)
        self.b = ConvNorm(w, w, 3, st, g)
        self.c = ConvNorm(w, o, 1, act=False)
        self.d = ConvNorm(i, o, 1, st, act=False) if i != o or st > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.c(self.b(self.a(x))) + self.d(x))


class SE(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c, r=4):
        super().__init__()
        self.a = nn.Conv2d(c, r, 1)
        self.b = nn.Conv2d(r, c, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.b(F.silu(self.a(x.mean((2, 3), keepdim=True)))))


class Mlp(nn.Module):
    """A feed-forward block."""

    def __init__(self, c, h):
        super().__init__()
        self.fc1 = nn.Linear(c, h)
        self.act = nn.GELU()
        self.d = nn.Dropout(0.1)
        self.fc2 = nn.Linear(h, c)

    def forward(self, x):
        return self.fc2(self.d(self.act(self.fc1(x))))


class Attn(nn.Module):
    """Attention with one layer for queries, keys and values."""

    def __init__(self, c=16, h=4, fused=False):
        super().__init__()
        self.num_heads = h
        self.head_dim = c // h
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(c, 3 * c)
        self.proj = nn.Linear(c, c)
        self.fused = fused
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        batch, count, width = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(batch, count, 3, self.num_heads, self.head_dim)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        else:
            x = self.drop((q * self.scale @ k.transpose(-2, -1)).softmax(-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, count, width))


class Blk(nn.Module):
    """A transformer block."""

    def __init__(self, c=16, h=4, fused=False):
        super().__init__()
        self.n1 = nn.LayerNorm(c)
        self.a = Attn(c, h, fused)
        self.n2 = nn.LayerNorm(c)
        self.m = Mlp(c, 4 * c)
        self.g = nn.Parameter(torch.rand(c))

    def forward(self, x):
        x = x + self.g * self.a(self.n1(x))
        return x + self.m(self.n2(x))


class Vit(nn.Module):
    """Class token, learned positions, blocks."""

    def __init__(self, c=16, blk=Blk, n=2):
        super().__init__()
        self.p = nn.Conv2d(3, c, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, c))
        self.pos = nn.Parameter(torch.randn(1, 17, c))
        self.b = nn.Sequential(*[blk(c) for _ in range(n)])
        self.n = nn.LayerNorm(c)
        self.h = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.h(self.n(self.b(x))[:, 0])
