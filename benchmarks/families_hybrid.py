"""Networks between convolutions and attention, small and from memory, for the table of what shrinks."""

import torch
import torch.nn.functional as F  # noqa: N812
from families_conv import SE, bare, conv, ended
from families_vit import Attention, Block, Mlp
from torch import Tensor, nn


class Maps(nn.Module):
    """Run token blocks on a map; windows or grids of it if a size is given (MaxViT, GroupViT)."""

    def __init__(self, block, size=0, grid=False):
        super().__init__()
        self.block, self.size, self.grid = block, size, grid

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if not self.size:
            return self.block(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b, c, h, w)
        s = self.size
        x = x.permute(0, 2, 3, 1)
        if self.grid:
            x = x.view(b, s, h // s, s, w // s, c).permute(0, 2, 4, 1, 3, 5).reshape(-1, s * s, c)
            x = self.block(x).view(b, h // s, w // s, s, s, c).permute(0, 3, 1, 4, 2, 5)
        else:
            x = x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
            x = self.block(x).view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h, w, c).permute(0, 3, 1, 2)


class Reduced(nn.Module):
    """Attention whose keys and values come from a smaller map (PVT, Twins, SegFormer, NextViT)."""

    def __init__(self, width, heads=4, reduce=2):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.sr, self.norm = nn.Conv2d(width, width, reduce, reduce), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3)
        x = self.norm(self.sr(x.permute(0, 2, 1).reshape(b, c, 4, 4)).reshape(b, c, -1).permute(0, 2, 1))
        k, v = self.kv(x).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Positions(nn.Module):
    """Add a depthwise convolution of the map as position (CPVT, Twins, CoaT)."""

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        b, _n, c = x.shape
        return (
            (self.proj(x.transpose(1, 2).view(b, c, 4, 4)) + x.transpose(1, 2).view(b, c, 4, 4)).flatten(2).mT
        )


class Factorised(nn.Module):
    """Attention of softmaxed keys, positions from kernels of several sizes (CoaT)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.parts = heads, [width // 2, width // 2]
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.convs = nn.ModuleList(
            nn.Conv2d(w, w, k, padding=k // 2, groups=w) for w, k in zip(self.parts, (3, 5), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        gathered = q @ (k.softmax(2).transpose(-1, -2) @ v)
        maps = v.transpose(-1, -2).reshape(b, c, 4, 4)
        parts = torch.split(maps, self.parts, 1)
        place = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)
        place = q * place.reshape(b, self.heads, c // self.heads, n).transpose(-1, -2)
        return self.proj((0.5 * gathered + place).transpose(1, 2).reshape(b, n, c))


class Cascade(nn.Module):
    """Each head reads a part of the channels and what the head before it gave (EfficientViT of MSRA)."""

    def __init__(self, width, heads=4, key=4):
        super().__init__()
        self.key, self.d, self.heads = key, width // heads, heads
        self.qkvs = nn.ModuleList(bare(self.d, 2 * key + self.d) for _ in range(heads))
        self.dws = nn.ModuleList(bare(key, key, 5, g=key) for _ in range(heads))
        self.proj = nn.Sequential(nn.ReLU(), bare(width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        feats = x.chunk(self.heads, 1)
        outs, feat = [], feats[0]
        for i, (qkv, dw) in enumerate(zip(self.qkvs, self.dws, strict=True)):
            feat = feat if i == 0 else feat + feats[i]
            q, k, v = qkv(feat).view(b, -1, h, w).split([self.key, self.key, self.d], 1)
            q, k, v = dw(q).flatten(2), k.flatten(2), v.flatten(2)
            feat = (v @ ((q.transpose(-2, -1) * 0.5) @ k).softmax(-1).transpose(-2, -1)).view(b, self.d, h, w)
            outs.append(feat)
        return x + self.proj(torch.cat(outs, 1))


class Single(nn.Module):
    """One head on a part of the channels (SHViT)."""

    def __init__(self, width, part=8, key=4):
        super().__init__()
        self.part, self.rest, self.key = part, width - part, key
        self.norm, self.qkv = nn.GroupNorm(1, part), bare(part, 2 * key + part)
        self.proj = nn.Sequential(nn.SiLU(), bare(width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, _c, h, w = x.shape
        a, rest = torch.split(x, [self.part, self.rest], 1)
        q, k, v = self.qkv(self.norm(a)).split([self.key, self.key, self.part], 1)
        scores = (q.flatten(2).transpose(-2, -1) @ k.flatten(2) * 0.5).softmax(-1)
        a = (v.flatten(2) @ scores.transpose(-2, -1)).reshape(b, self.part, h, w)
        return x + self.proj(torch.cat([a, rest], 1))


class Separable(nn.Module):
    """Attention of linear cost on unfolded patches (MobileViTv2)."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.qkv, self.out = nn.Conv2d(width, 1 + 2 * width, 1), nn.Conv2d(width, width, 1)
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        patches = F.unfold(x, 2, stride=2).reshape(b, c, 4, -1)
        q, k, v = torch.split(self.qkv(self.norm(patches)), [1, self.width, self.width], 1)
        context = (k * q.softmax(-1)).sum(-1, keepdim=True)
        patches = patches + self.out(F.relu(v) * context.expand_as(v))
        return F.fold(patches.reshape(b, c * 4, -1), (h, w), 2, stride=2)


class Additive(nn.Module):
    """Attention of one global query (SwiftFormer)."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.weigh, self.proj, self.out = (
            nn.Parameter(torch.randn(width, 1)),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.normalize(self.q(x), dim=-1), F.normalize(self.k(x), dim=-1)
        a = F.normalize(q @ self.weigh * 0.25, dim=1)
        gathered = torch.einsum("bn,bnd->bd", a.squeeze(-1), q)[:, None].repeat(1, k.shape[1], 1)
        return self.out(self.proj(gathered * k) + q)


class Halved(nn.Module):
    """Pool queries, keys and values by depthwise convolutions of each head (MViT v2)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, d = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.pools = nn.ModuleList(nn.Conv2d(d, d, 3, s, 1, groups=d, bias=False) for s in (1, 2, 2))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))
        self.rel = nn.Parameter(torch.randn(4, 2, d))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        parts = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v = (
            norm(
                pool(p.reshape(b * self.heads, 4, 4, -1).permute(0, 3, 1, 2).contiguous())
                .reshape(b, self.heads, p.shape[-1], -1)
                .transpose(2, 3)
            )
            for p, pool, norm in zip(parts, self.pools, self.norms, strict=True)
        )
        scores = q * 0.5 @ k.transpose(-2, -1)
        bias = torch.einsum("bythwc,hkc->bythwk", q.reshape(b, self.heads, 1, 4, 4, -1), self.rel).squeeze(2)
        scores = (scores.view(b, self.heads, 4, 4, 2, 2) + bias[..., :, None]).view(b, self.heads, n, -1)
        return self.proj((scores.softmax(-1) @ v + q).transpose(1, 2).reshape(b, n, c))


class Visible(nn.Module):
    """Attention and feed-forward blocks of convolutions with batch norms (Visformer, RepViT)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.d = heads, width // heads
        self.norm, self.qkv, self.proj = (
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 3 * width, 1, bias=False),
            nn.Conv2d(width, width, 1),
        )
        self.mlp = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=4),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (
            self.qkv(self.norm(x)).reshape(b, 3, self.heads, self.d, -1).permute(1, 0, 2, 4, 3).unbind(0)
        )
        y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        x = x + self.proj(y.permute(0, 1, 3, 2).reshape(b, -1, h, w))
        return x + self.mlp(x)


def staged(*blocks, width=16):
    """Return a classifier whose blocks work on maps of 4 by 4."""
    return ended(
        nn.Sequential(conv(3, width, 3, 2), conv(width, width, 3, 2), *blocks, nn.BatchNorm2d(width)), width
    )


FAMILIES = {
    "MaxViT": lambda: staged(SE(16), Maps(Block(16), 2), Maps(Block(16), 2, True)),
    "Twins": lambda: staged(Maps(Block(16), 2), Maps(nn.Sequential(Block(16, Reduced(16)), Positions(16)))),
    "CoaT": lambda: staged(Maps(Block(16, Factorised(16)))),
    "EfficientViT, cascaded": lambda: staged(Cascade(16), bare(16, 16, 3, g=16)),
    "SHViT": lambda: staged(Single(16)),
    "MobileViTv2": lambda: staged(Separable(16)),
    "SwiftFormer": lambda: staged(Maps(Additive(16))),
    "MViTv2": lambda: staged(Maps(Block(16, Halved(16)))),
    "Visformer": lambda: staged(Visible(16)),
    "PiT": lambda: staged(Maps(Block(16)), nn.Conv2d(16, 16, 3, 1, 1, groups=8), Maps(Block(16))),
    "EfficientFormer": lambda: staged(nn.AvgPool2d(3, 1, 1), Maps(nn.Sequential(Attention(16), Mlp(16)))),
}
