"""More convolutional networks of many families: mobile, searched, re-parametrised, dense prediction."""

import torch
import torch.nn.functional as F  # noqa: N812
from families_conv import SE, Cat, Residual, bare, conv, ended, separable
from torch import Tensor, nn


class Partial(nn.Module):
    """Convolve a part of the channels and hand the others on (FasterNet)."""

    def __init__(self, width):
        super().__init__()
        self.part = width // 4
        self.rest = width - self.part
        self.conv = nn.Conv2d(self.part, self.part, 3, padding=1, bias=False)
        self.mlp = nn.Sequential(conv(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, [self.part, self.rest], 1)
        return x + self.mlp(torch.cat([self.conv(a), b], 1))


def fasternet():
    """Return a FasterNet."""
    return ended(nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16), Partial(16), Partial(16)), 16)


class Decoupled(nn.Module):
    """A ghost module weighed by attention over long rows and columns (GhostNetV2)."""

    def __init__(self, i, o):
        super().__init__()
        self.o = o
        self.primary, self.cheap = conv(i, o // 2, 1), conv(o // 2, o // 2, 3, g=o // 2)
        self.short = nn.Sequential(
            bare(i, o, 1),
            nn.Conv2d(o, o, (1, 5), padding=(0, 2), groups=o),
            nn.Conv2d(o, o, (5, 1), padding=(2, 0), groups=o),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.short(F.avg_pool2d(x, 2))
        a = self.primary(x)
        out = torch.cat([a, self.cheap(a)], 1)[:, : self.o]
        return out * F.interpolate(torch.sigmoid(gate), size=out.shape[-2:], mode="nearest")


def ghostnetv2():
    """Return a GhostNetV2."""
    return ended(
        nn.Sequential(
            conv(3, 8), Decoupled(8, 16), conv(16, 16, 3, 2, 16), nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)
        ),
        8,
    )


class Branches(nn.Module):
    """Sum the outputs of branches that see the same input (MobileOne, RepGhost)."""

    def __init__(self, *branches, act=None):
        super().__init__()
        self.branches, self.act = nn.ModuleList(branches), act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(sum(branch(x) for branch in self.branches))


def mobileone():
    """Return a MobileOne: branches of depthwise and pointwise convolutions and norms."""

    def block(i, o):
        deep = Branches(bare(i, i, 3, g=i), bare(i, i, 1, g=i), nn.BatchNorm2d(i))
        return nn.Sequential(
            deep, Branches(*(bare(i, o) for _ in range(2)), *([nn.BatchNorm2d(i)] if i == o else []))
        )

    return ended(nn.Sequential(conv(3, 8, 3, 2), block(8, 8), block(8, 12)), 12)


class RepGhost(nn.Module):
    """A ghost module that adds instead of laying side by side."""

    def __init__(self, i, o):
        super().__init__()
        self.primary, self.cheap, self.norm = conv(i, o, 1), bare(o, o, 3, g=o), nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        a = self.primary(x)
        return F.relu(self.cheap(a) + self.norm(a))


class Cell(nn.Module):
    """A searched cell: branches of two earlier outputs are added pairwise (NASNet)."""

    def __init__(self, before, i, w):
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.ReLU(), bare(before, w)),
            nn.Sequential(nn.ReLU(), bare(i, w)),
        )
        self.ops = nn.ModuleList(
            [
                separable(w, w),
                separable(w, w),
                nn.AvgPool2d(3, 1, 1, count_include_pad=False),
                nn.MaxPool2d(3, 1, 1),
            ]
        )

    def forward(self, before: Tensor, x: Tensor) -> Tensor:
        a, b = self.left(before), self.right(x)
        return torch.cat([self.ops[0](a) + b, self.ops[1](b) + self.ops[2](a), self.ops[3](b) + a, b], 1)


class Nas(nn.Module):
    """A NASNet: strided shortcuts are shifted by a pixel before they are pooled."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.one, self.two = Cell(8, 8, 6), Cell(8, 24, 6)
        self.p, self.q = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(8), ended(nn.ReLU(), 8)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        y = self.two(stem, self.one(stem, stem))
        shifted = F.pad(y, (-1, 1, -1, 1))
        return self.head(
            self.norm(torch.cat([self.p(F.avg_pool2d(y, 1, 2)), self.q(F.avg_pool2d(shifted, 1, 2))], 1))
        )


class Context(nn.Module):
    """Weigh channels by a context that attention gathers over places (GCNet)."""

    def __init__(self, width):
        super().__init__()
        self.attend = nn.Conv2d(width, 1, 1)
        self.add = nn.Sequential(nn.Conv2d(width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        attention = F.softmax(self.attend(x).reshape(b, 1, h * w), -1).unsqueeze(3)
        context = (x.reshape(b, c, h * w).unsqueeze(1) @ attention).view(b, c, 1, 1)
        return x + self.add(context)


class MambaOut(nn.Module):
    """A gated block of which a part of the channels is convolved (MambaOut)."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.hidden = nn.LayerNorm(width), 2 * width
        self.sizes = [self.hidden, self.hidden - width, width]
        self.fc1, self.fc2 = nn.Linear(width, 2 * self.hidden), nn.Linear(self.hidden, width)
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        g, i, c = torch.split(self.fc1(self.norm(x)), self.sizes, -1)
        c = self.conv(c.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.fc2(F.gelu(g) * torch.cat((i, c), -1))


class Permuted(nn.Module):
    """Blocks that keep channels last."""

    def __init__(self, *blocks, width):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, width, 4, 4), nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x).permute(0, 2, 3, 1))).mean((1, 2)))


def yolo():
    """Return a YOLO: cross-stage blocks that keep every output, pooling at several scales."""

    class C2f(nn.Module):
        def __init__(self, i, o, w):
            super().__init__()
            self.a, self.b = conv(i, 2 * w, 1, act=nn.SiLU()), conv(3 * w, o, 1, act=nn.SiLU())
            self.m = nn.Sequential(conv(w, w, act=nn.SiLU()), conv(w, w, act=nn.SiLU()))

        def forward(self, x):
            parts = list(self.a(x).chunk(2, 1))
            parts.append(parts[-1] + self.m(parts[-1]))
            return self.b(torch.cat(parts, 1))

    pools = Cat(nn.Identity(), nn.MaxPool2d(5, 1, 2), nn.MaxPool2d(9, 1, 4))
    return ended(
        nn.Sequential(
            conv(3, 8, act=nn.SiLU()), C2f(8, 8, 6), nn.Sequential(conv(8, 4, 1), pools, conv(12, 8, 1))
        ),
        8,
    )


FAMILIES = {
    "FasterNet": fasternet,
    "GhostNetV2": ghostnetv2,
    "MobileOne": mobileone,
    "RepGhost": lambda: ended(nn.Sequential(conv(3, 8), RepGhost(8, 16), SE(16), RepGhost(16, 8)), 8),
    "NASNet": Nas,
    "GCNet": lambda: ended(
        nn.Sequential(conv(3, 8), Residual(nn.Sequential(conv(8, 8), Context(8))), conv(8, 8)), 8
    ),
    "MambaOut": lambda: Permuted(MambaOut(8), MambaOut(8), width=8),
    "YOLO": yolo,
}
