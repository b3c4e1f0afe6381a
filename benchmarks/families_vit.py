"""Transformers of many families for images, small and from memory, for the table of what shrinks."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width, times=2):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, times * width), nn.Linear(times * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Attention with one projection for queries, keys and values; the scores can be worked on."""

    def __init__(self, width, heads=4, bias=None):
        super().__init__()
        self.heads, self.scale, self.bias = heads, (width // heads) ** -0.5, bias
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = scores if self.bias is None else self.bias(scores)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """A transformer block with norms before and learned scales behind."""

    def __init__(self, width, attention=None, mlp=None, norm=nn.LayerNorm):
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn, self.mlp = attention or Attention(width), mlp or Mlp(width)
        self.gamma = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma * self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A vision transformer on 16 tokens: class token, positions, what the blocks are."""

    def __init__(self, *blocks, width=16, token=True, pool="token"):
        super().__init__()
        self.embed, self.blocks = nn.Conv2d(3, width, 4, 4), nn.Sequential(*blocks)
        self.token = nn.Parameter(torch.randn(1, 1, width)) if token else None
        self.place = nn.Parameter(torch.randn(1, 16 + token, width))
        self.norm, self.head, self.pool = nn.LayerNorm(width), nn.Linear(width, 3), pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x if self.token is None else torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.place))
        return self.head(x.mean(1) if self.pool == "mean" else x[:, 0])


class Table(nn.Module):
    """Relative position bias from a table (BEiT), or from an index that is kept (LeViT, TinyViT)."""

    def __init__(self, heads, n, last=False):
        super().__init__()
        self.last = last
        self.table = nn.Parameter(torch.randn(heads, 9) if last else torch.randn(9, heads))
        self.register_buffer("index", torch.arange(n * n).reshape(n, n) % 9)
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "Table":
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, scores: Tensor) -> Tensor:
        if not self.last:
            n = self.index.shape[0]
            return scores + self.table[self.index.view(-1)].view(n, n, -1).permute(
                2, 0, 1
            ).contiguous().unsqueeze(0)
        if self.training:
            return scores + self.table[:, self.index]
        if "bias" not in self.kept:
            self.kept["bias"] = self.table[:, self.index]
        return scores + self.kept["bias"]


class Talking(nn.Module):
    """Mix the heads before and after the softmax (CaiT, DeepViT)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.before, self.after = nn.Linear(heads, heads), nn.Conv2d(heads, heads, 1)
        self.norm = nn.BatchNorm2d(heads)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.before((q @ k.mT * 0.3).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.proj((self.norm(self.after(scores)) @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """Attention blended with one of positions by a gate of each head (ConViT)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qk, self.v = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.pos, self.proj = nn.Linear(3, heads), nn.Linear(width, width)
        self.gate = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        ind = torch.arange(4).view(1, -1) - torch.arange(4).view(-1, 1)
        dx, dy = ind.repeat(4, 4), ind.repeat_interleave(4, 0).repeat_interleave(4, 1)
        rel = torch.stack([dx, dy, dx**2 + dy**2], -1).unsqueeze(0).to(x)
        places = self.pos(rel.expand(b, -1, -1, -1)).permute(0, 3, 1, 2).softmax(-1)
        q, k = self.qk(x).reshape(b, n, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        content = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        gate = torch.sigmoid(self.gate.view(1, -1, 1, 1))
        both = (1 - gate) * content + gate * places
        both = both / both.sum(-1).unsqueeze(-1)
        v = self.v(x).reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3)
        return self.proj((both @ v).transpose(1, 2).reshape(b, n, c))


class Rotary(nn.Module):
    """Attention with rotated, normed queries and keys and a bias of the values only (EVA-02, DINOv3)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.dim = heads, width // heads
        self.q, self.k, self.v = (
            nn.Linear(width, width),
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width),
        )
        self.qn, self.kn, self.norm = nn.LayerNorm(self.dim), nn.LayerNorm(self.dim), nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("sin", torch.randn(16, self.dim))
        self.register_buffer("cos", torch.randn(16, self.dim))

    def turned(self, x: Tensor) -> Tensor:
        token, x = x[:, :, :1], x[:, :, 1:]
        half = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return torch.cat([token, x * self.cos + half * self.sin], 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            layer(x).reshape(b, n, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        q, k = self.turned(self.qn(q)), self.turned(self.kn(k))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return self.proj(self.norm(x))


class SwiGLU(nn.Module):
    """A gated feed-forward block with a norm inside."""

    def __init__(self, width, hidden):
        super().__init__()
        self.g, self.x = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.g(x)) * self.x(x))


class Pooled(nn.Module):
    """Attention of one learned query over all tokens (SigLIP, CoCa)."""

    def __init__(self, width):
        super().__init__()
        self.probe, self.attn = (
            nn.Parameter(torch.randn(1, 1, width)),
            nn.MultiheadAttention(width, 4, batch_first=True),
        )
        self.norm, self.mlp, self.head = nn.LayerNorm(width), Mlp(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.probe.expand(len(x), -1, -1), x, x)[0]
        return self.head((x + self.mlp(self.norm(x)))[:, 0])


class Tokens(nn.Module):
    """A patch embedding, blocks, and any head."""

    def __init__(self, head, *blocks, width=16):
        super().__init__()
        self.embed, self.blocks, self.head = nn.Conv2d(3, width, 4, 4), nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x).flatten(2).mT))


class Cross(nn.Module):
    """Attention over the channels of queries and keys of length 1 (XCiT)."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1).unbind(0)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return self.proj((scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, n, c))


FAMILIES = {
    "DeiT": lambda: Vit(Block(16), Block(16)),
    "BEiT": lambda: Vit(Block(16, Attention(16, bias=Table(4, 17))), pool="mean"),
    "LeViT bias": lambda: Vit(Block(16, Attention(16, bias=Table(4, 16, True))), token=False, pool="mean"),
    "DeepViT": lambda: Vit(Block(16, Talking(16))),
    "ConViT": lambda: Vit(Block(16, Gated(16)), token=False, pool="mean"),
    "EVA-02": lambda: Vit(Block(16, Rotary(16), SwiGLU(16, 24))),
    "SigLIP": lambda: Tokens(Pooled(16), Block(16)),
    "XCiT, cross-covariance": lambda: Vit(Block(16, Cross(16))),
}
