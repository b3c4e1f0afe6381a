"""Networks of depthwise blocks, concatenations and shuffles."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink.nets_parts_test import SE, Bottle, ConvNorm, Head


class MB(nn.Module):
    """An inverted residual with squeeze and excitation."""

    def __init__(self, c=8, e=4):
        super().__init__()
        self.a = ConvNorm(c, c * e, 1)
        self.b = ConvNorm(c * e, c * e, 3, g=c * e)
        self.se = SE(c * e)
        self.c = ConvNorm(c * e, c, 1, act=False)

    def forward(self, x):
        return x + self.c(self.se(self.b(self.a(x))))


def effnet():
    return Head(nn.Sequential(ConvNorm(3, 8), MB(), MB()), 8)


class LN2(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, x):
        return F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        ).permute(0, 3, 1, 2)


class CNX(nn.Module):
    """A ConvNeXt block with layer scale."""

    def __init__(self, c=8):
        super().__init__()
        self.dw = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.n = nn.LayerNorm(c)
        self.a = nn.Linear(c, 4 * c)
        self.b = nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.rand(c))

    def forward(self, x):
        y = self.dw(x).permute(0, 2, 3, 1)
        y = self.b(F.gelu(self.a(self.n(y)))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


def convnext():
    return Head(
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), LN2(8), CNX(), CNX(), LN2(8), nn.Conv2d(8, 12, 2, 2), CNX(12)),
        12,
    )


class GRN(nn.Module):
    """Global response normalisation."""

    def __init__(self, c):
        super().__init__()
        self.w = nn.Parameter(torch.rand(c))
        self.b = nn.Parameter(torch.rand(c))

    def forward(self, x):
        g = x.norm(p=2, dim=(1, 2), keepdim=True)
        n = g / (g.mean(dim=-1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.b.view(1, 1, 1, -1), self.w.view(1, 1, 1, -1), x * n)


class CNX2(nn.Module):
    """A ConvNeXt V2 block."""

    def __init__(self, c=8):
        super().__init__()
        self.dw = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.n = nn.LayerNorm(c)
        self.a = nn.Linear(c, 4 * c)
        self.g = GRN(4 * c)
        self.b = nn.Linear(4 * c, c)

    def forward(self, x):
        y = self.dw(x).permute(0, 2, 3, 1)
        y = self.b(self.g(F.gelu(self.a(self.n(y)))))
        return x + y.permute(0, 3, 1, 2)


def convnextv2():
    return Head(nn.Sequential(nn.Conv2d(3, 8, 4, 4), CNX2()), 8)


class Ghost(nn.Module):
    """Cheap maps beside others, cut to a number."""

    def __init__(self, i, o):
        super().__init__()
        self.o = o
        self.a = ConvNorm(i, o // 2, 1)
        self.b = ConvNorm(o // 2, o // 2, 3, g=o // 2)

    def forward(self, x):
        a = self.a(x)
        return torch.cat([a, self.b(a)], 1)[:, : self.o]


def ghost():
    return Head(nn.Sequential(ConvNorm(3, 8), Ghost(8, 16), Ghost(16, 8)), 8)


class CSP(nn.Module):
    """A cross-stage block: one half goes around."""

    def __init__(self, c=8):
        super().__init__()
        self.e = ConvNorm(c, 16, 1)
        self.b = nn.Sequential(Bottle(8, 4, 8), Bottle(8, 4, 8))
        self.t = ConvNorm(8, 8, 1)
        self.o = ConvNorm(16, c, 1)

    def forward(self, x):
        x = self.e(x)
        a, b = x.split(x.shape[1] // 2, 1)
        return self.o(torch.cat([a, self.t(self.b(b))], 1))


def csp():
    return Head(nn.Sequential(ConvNorm(3, 8), CSP(), CSP()), 8)


class ShuffleUnit(nn.Module):
    """A ShuffleNet V2 unit."""

    def __init__(self, c=8):
        super().__init__()
        self.b = nn.Sequential(
            ConvNorm(c // 2, c // 2, 1),
            ConvNorm(c // 2, c // 2, 3, g=c // 2, act=False),
            ConvNorm(c // 2, c // 2, 1),
        )

    def forward(self, x):
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.b(b)], 1)
        batch, width, high, wide = x.shape
        return (
            x.view(batch, 2, width // 2, high, wide).transpose(1, 2).contiguous().view(batch, -1, high, wide)
        )


def shufflev2():
    return Head(nn.Sequential(ConvNorm(3, 8), ShuffleUnit(), ShuffleUnit(), ConvNorm(8, 12, 1)), 12)


class Dense(nn.Module):
    """A dense block."""

    def __init__(self, c=6, g=4, n=3):
        super().__init__()
        self.l = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(c + i * g),
                nn.ReLU(),
                nn.Conv2d(c + i * g, 8, 1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, g, 3, padding=1, bias=False),
            )
            for i in range(n)
        )

    def forward(self, x):
        f = [x]
        for layer in self.l:
            f.append(layer(torch.cat(f, 1)))
        return torch.cat(f, 1)


def densenet():
    return Head(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            Dense(),
            nn.BatchNorm2d(18),
            nn.ReLU(),
            nn.Conv2d(18, 9, 1),
            nn.AvgPool2d(2),
            Dense(9),
        ),
        21,
    )


class DPN(nn.Module):
    """A dual-path block: unequal parts of a slice."""

    def __init__(self, i=12, n=8, inc=4):
        super().__init__()
        self.n = n
        self.a = ConvNorm(i, 8, 1)
        self.b = nn.Conv2d(8, n + inc, 1)

    def forward(self, x):
        res = x[:, : self.n]
        dense = x[:, self.n :]
        y = self.b(self.a(x))
        return torch.cat([res + y[:, : self.n], dense, y[:, self.n :]], 1)


def dpn():
    return Head(nn.Sequential(ConvNorm(3, 12), DPN(12), DPN(16)), 20)


class Star(nn.Module):
    """A product of two branches."""

    def __init__(self, c=8):
        super().__init__()
        self.p = ConvNorm(3, c)
        self.f1 = nn.Conv2d(c, 16, 1)
        self.f2 = nn.Conv2d(c, 16, 1)
        self.g = ConvNorm(16, c, 1, act=False)
        self.hd = nn.Linear(c, 3)

    def forward(self, x):
        x = self.p(x)
        return self.hd((x + self.g(F.relu6(self.f1(x)) * self.f2(x))).mean((2, 3)))
