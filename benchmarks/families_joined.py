"""Convolutional networks that lay many outputs side by side, for the table of what shrinks."""

import torch
import torch.nn.functional as F  # noqa: N812
from families_conv import Residual, bare, conv, ended
from torch import Tensor, nn


class Tree(nn.Module):
    """Two blocks whose outputs a root aggregates with what they read (DLA)."""

    def __init__(self, i, o):
        super().__init__()
        self.down, self.project = nn.MaxPool2d(2), bare(i, o)
        self.a, self.b = (
            Residual(nn.Sequential(conv(i, o, 3, 2), bare(o, o, 3)), nn.Identity()),
            Residual(nn.Sequential(conv(o, o), bare(o, o, 3))),
        )
        self.root = conv(2 * o + i, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        bottom = self.down(x)
        first = F.relu(self.a.body(x) + self.project(bottom))
        return self.root(torch.cat([self.b(first), first, bottom], 1))


class OSA(nn.Module):
    """One-shot aggregation with effective squeeze-excite (VoVNet)."""

    def __init__(self, i, w, o):
        super().__init__()
        self.convs = nn.ModuleList([conv(i, w), conv(w, w), conv(w, w)])
        self.out, self.ese = conv(i + 3 * w, o, 1), nn.Conv2d(o, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.convs:
            found.append(layer(found[-1]))
        y = self.out(torch.cat(found, 1))
        return y * F.hardsigmoid(self.ese(y.mean((2, 3), keepdim=True))) + x


class Harmonic(nn.Module):
    """A block in which layer n reads layers n - 1, n - 2, n - 4 (HarDNet)."""

    def __init__(self, i):
        super().__init__()
        self.layers = nn.ModuleList([conv(i, 4), conv(i + 4, 6), conv(6, 4), conv(i + 10, 8)])

    def forward(self, x: Tensor) -> Tensor:
        a = self.layers[0](x)
        b = self.layers[1](torch.cat([a, x], 1))
        c = self.layers[2](b)
        return torch.cat([self.layers[3](torch.cat([c, b, x], 1)), c, a], 1)


class Affine(nn.Module):
    """A scale and a shift, one number each (HGNetV2)."""

    def __init__(self):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor([1.2])), nn.Parameter(torch.tensor([0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class HG(nn.Module):
    """A stage of light convolutions whose outputs are aggregated (PP-HGNet)."""

    def __init__(self, i, w, o):
        super().__init__()
        light = lambda a: nn.Sequential(bare(a, w, 1), conv(w, w, 5, g=w), Affine())
        self.layers = nn.ModuleList([light(i), light(w), light(w)])
        self.squeeze, self.excite = conv(i + 3 * w, o // 2, 1), conv(o // 2, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return self.excite(self.squeeze(torch.cat(found, 1)))


class SelecSLS(nn.Module):
    """A block that hands a skip connection on beside its output."""

    def __init__(self, i, skip, w, first):
        super().__init__()
        self.first = first
        self.a, self.b, self.c = conv(i, w, 3, 2 if first else 1), conv(w, w, 1), conv(w, w // 2)
        self.d, self.e = conv(w // 2, w, 1), conv(w, w // 2)
        self.f = conv(2 * w + (0 if first else skip), w, 1)

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        a = self.a(given[0])
        b = self.c(self.b(a))
        c = self.e(self.d(b))
        if self.first:
            out = self.f(torch.cat([a, b, c], 1))
            return [out, out]
        return [self.f(torch.cat([a, b, c, given[1]], 1)), given[1]]


class Selected(nn.Module):
    """A SelecSLS network."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.body = nn.Sequential(SelecSLS(8, 0, 12, True), SelecSLS(12, 12, 12, False))
        self.head = ended(conv(12, 8), 8)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        return self.head(self.body([stem, stem])[0])


FAMILIES = {
    "DLA": lambda: ended(nn.Sequential(conv(3, 8), Tree(8, 12)), 12),
    "VoVNet": lambda: ended(nn.Sequential(conv(3, 8), OSA(8, 6, 8), OSA(8, 6, 8)), 8),
    "HarDNet": lambda: ended(nn.Sequential(conv(3, 8), Harmonic(8), conv(16, 12, 1)), 12),
    "HGNetV2": lambda: ended(nn.Sequential(conv(3, 8), HG(8, 6, 12), HG(12, 6, 12)), 12),
    "SelecSLS": Selected,
}
