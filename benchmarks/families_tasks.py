"""Networks for other tasks than naming an image, small and from memory, for the table of what shrinks."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from families_conv import Cat, Residual, bare, conv
from torch import Tensor, nn


class Backbone(nn.Module):
    """Return the maps of three scales."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 8, 3, 2), conv(8, 12, 3, 2), conv(12, 16, 3, 2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Fcn(nn.Module):
    """Classify places and resize what was found (FCN, DeepLab v3 with dilated branches and a pooled one)."""

    def __init__(self, dilated):
        super().__init__()
        self.body = Backbone()
        rates = (
            [nn.Conv2d(16, 8, 3, padding=r, dilation=r) for r in (1, 2)]
            if dilated
            else [nn.Conv2d(16, 8, 3, padding=1)]
        )
        self.pooled = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU()) if dilated else None
        )
        self.rates = Cat(*rates)
        self.head = nn.Sequential(conv(24 if dilated else 8, 8, 1), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)[-1]
        parts = [self.rates(y)]
        if self.pooled is not None:
            parts.append(
                F.interpolate(self.pooled(y), size=y.shape[-2:], mode="bilinear", align_corners=False)
            )
        return F.interpolate(
            self.head(torch.cat(parts, 1)), size=x.shape[-2:], mode="bilinear", align_corners=False
        )


class Pyramid(nn.Module):
    """A feature pyramid with one head for all scales (FPN, RetinaNet, BiFPN's weights)."""

    def __init__(self, width=8):
        super().__init__()
        self.body = Backbone()
        self.side = nn.ModuleList(nn.Conv2d(w, width, 1) for w in (8, 12, 16))
        self.weight = nn.Parameter(torch.ones(3, 2))
        self.boxes = nn.Sequential(
            conv(width, width), nn.GroupNorm(4, width), nn.Conv2d(width, 4, 3, padding=1)
        )
        self.kinds = nn.Sequential(conv(width, width), nn.Conv2d(width, 6, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = [side(y) for side, y in zip(self.side, self.body(x), strict=True)]
        for i in (1, 0):
            w = F.relu(self.weight[i])
            up = F.interpolate(maps[i + 1], scale_factor=2, mode="nearest")
            maps[i] = (w[0] * maps[i] + w[1] * up) / (w.sum() + 1e-4)
        boxes = torch.cat([self.boxes(m).flatten(2).mT for m in maps], 1)
        kinds = torch.cat([self.kinds(m).permute(0, 2, 3, 1).reshape(len(x), -1, 3) for m in maps], 1)
        return boxes, kinds.sigmoid()


class Nested(nn.Module):
    """Nested skips at every depth (U-Net++)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 8), conv(8, 12)
        self.ab, self.bc, self.abc = conv(12, 4), conv(20, 8), conv(4 + 4 + 8, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        up = lambda y: F.interpolate(y, scale_factor=2, mode="bilinear")
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        ab, bc = self.ab(torch.cat([a, up(b)], 1)), self.bc(torch.cat([b, up(c)], 1))
        return [self.out(ab), self.out(self.abc(torch.cat([a, ab, up(bc)], 1)))]


def edsr():
    """Return a super-resolution network: scaled residual blocks, a pixel shuffle (EDSR, SRGAN)."""
    block = Residual(
        nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.PReLU(12), nn.Conv2d(12, 8, 3, 1, 1)), None, nn.Identity()
    )
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        block,
        nn.Conv2d(8, 32, 3, 1, 1),
        nn.PixelShuffle(2),
        nn.Conv2d(8, 3, 3, 1, 1),
    )


class Vae(nn.Module):
    """Encode to a mean and a deviation, decode the mean."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(conv(3, 8, 3, 2), conv(8, 12, 3, 2), nn.Flatten())
        self.mean, self.spread, self.back = nn.Linear(192, 6), nn.Linear(192, 6), nn.Linear(6, 192)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encode(x)
        mean, spread = self.mean(h), self.spread(h)
        z = mean + torch.exp(0.5 * spread)
        return self.decode(self.back(z).view(-1, 12, 4, 4)), spread


def dcgan():
    """Return a generator of transposed convolutions."""
    up = lambda i, o: nn.Sequential(
        nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()
    )
    return nn.Sequential(
        nn.ConvTranspose2d(6, 16, 4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        up(16, 8),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )


class Diffusion(nn.Module):
    """A U-Net with group norms whose blocks are shifted by an embedding of the time."""

    def __init__(self, width=8):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.start, self.out = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, w) for w in (width, 2 * width, 3 * width))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, 1, 1) for i, o in ((8, 16), (16, 16), (24, 8)))
        self.shifts = nn.ModuleList(nn.Linear(16, o) for o in (16, 16, 8))
        self.qkv, self.proj = nn.Conv2d(2 * width, 6 * width, 1), nn.Conv2d(2 * width, 2 * width, 1)

    def block(self, i: int, x: Tensor, t: Tensor) -> Tensor:
        return self.convs[i](F.silu(self.norms[i](x))) + self.shifts[i](F.silu(t))[:, :, None, None]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.exp(-math.log(100.0) * torch.arange(4) / 4).to(x)
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        first = self.start(x)
        y = self.block(1, F.avg_pool2d(self.block(0, first, t), 2), t)
        q, k, v = self.qkv(y).flatten(2).chunk(3, 1)
        scores = torch.einsum("bct,bcs->bts", q, k) * 0.25
        y = y + self.proj(torch.einsum("bts,bcs->bct", scores.softmax(-1), v).view_as(y))
        both = torch.cat([F.interpolate(y, scale_factor=2), first], 1)
        return self.out(self.block(2, both, t))


class Flow(nn.Module):
    """Correlate two images and update a flow by a recurrent unit (RAFT)."""

    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(conv(3, 8, 3, 2), nn.InstanceNorm2d(8), nn.Conv2d(8, width, 3, 2, 1))
        self.gates, self.new = (
            nn.Conv2d(width + 18, 2 * width, 3, 1, 1),
            nn.Conv2d(width + 18, width, 3, 1, 1),
        )
        self.flow = nn.Sequential(conv(width, 12), nn.Conv2d(12, 2, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.body(a), self.body(b)
        n, c, h, w = a.shape
        corr = torch.einsum("nchw,nckl->nhwkl", a, b).reshape(n, h, w, h * w).permute(0, 3, 1, 2) / c**0.5
        state, flow = torch.tanh(a), a.new_zeros(n, 2, h, w)
        for _ in range(2):
            seen = torch.cat([corr, flow], 1)
            z, r = torch.sigmoid(self.gates(torch.cat([state, seen], 1))).chunk(2, 1)
            state = (1 - z) * state + z * torch.tanh(self.new(torch.cat([r * state, seen], 1)))
            flow = flow + self.flow(state)
        return flow


class Siamese(nn.Module):
    """Compare two images and a picture of text by cosines at a learned temperature (CLIP)."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(conv(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
        self.words, self.text = nn.Embedding(11, 8), nn.GRU(8, 8, batch_first=True)
        self.out, self.scale = nn.Linear(8, 6), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        a, b = (
            F.normalize(self.image(x), dim=-1),
            F.normalize(self.out(self.text(self.words(words))[1][0]), dim=-1),
        )
        return self.scale.exp() * a @ b.t()


class Low(nn.Module):
    """A layer with a low-rank addition (LoRA)."""

    def __init__(self, i, o):
        super().__init__()
        self.base = nn.Linear(i, o).requires_grad_(False)
        self.down, self.up = nn.Linear(i, 4, bias=False), nn.Linear(4, o, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


FAMILIES = {
    "FCN": lambda: Fcn(False),
    "DeepLabV3": lambda: Fcn(True),
    "FPN, RetinaNet, BiFPN": Pyramid,
    "U-Net++": Nested,
    "EDSR": edsr,
    "VAE": Vae,
    "DCGAN": dcgan,
    "Diffusion U-Net": Diffusion,
    "RAFT": Flow,
    "CLIP": Siamese,
    "LoRA": lambda: nn.Sequential(nn.Flatten(), Low(768, 12), nn.ReLU(), Low(12, 8), nn.ReLU(), Low(8, 3)),
    "SENet, stem of three": lambda: nn.Sequential(
        conv(3, 4, 3, 2), conv(4, 4), conv(4, 8), bare(8, 8), nn.Flatten(), nn.Linear(512, 3)
    ),
}
IMAGE = (2, 3, 16, 16)
EXAMPLES = {
    "DCGAN": lambda: (torch.randn(2, 6, 1, 1),),
    "Diffusion U-Net": lambda: (torch.randn(IMAGE), torch.tensor([3.0, 7.0])),
    "RAFT": lambda: (torch.randn(IMAGE), torch.randn(IMAGE)),
    "CLIP": lambda: (torch.randn(IMAGE), torch.arange(8).reshape(2, 4)),
}
