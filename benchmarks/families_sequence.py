"""Networks of sequences, tables, graphs and sets, small and from memory, for the table of what shrinks."""

import torch
import torch.nn.functional as F  # noqa: N812
from families_vit import Block, Mlp, Tokens, Vit
from torch import Tensor, nn


class Lines(nn.Module):
    """Mix tokens, then channels, between scales and shifts (ResMLP)."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mix, self.mlp = nn.Linear(16, 16), Mlp(width)
        self.g, self.h = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.g * self.mix((self.a * x + self.b).transpose(1, 2)).transpose(1, 2)
        return x + self.h * self.mlp(torch.addcmul(self.b, self.a, x))


class Fourier(nn.Module):
    """Filter tokens by learned numbers in the frequency domain (GFNet)."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        x = torch.fft.rfft2(x.view(b, 4, 4, c), dim=(1, 2), norm="ortho") * torch.view_as_complex(self.weight)
        return torch.fft.irfft2(x, s=(4, 4), dim=(1, 2), norm="ortho").reshape(b, n, c)


class Gated(nn.Module):
    """Dilated causal convolutions with gates and skips (WaveNet)."""

    def __init__(self, width=8):
        super().__init__()
        self.start = nn.Conv1d(4, width, 1)
        self.convs = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=d) for d in (1, 2, 4))
        self.out = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in self.convs)
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(width, 12, 1), nn.ReLU(), nn.Conv1d(12, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.start(x), 0
        for layer, out in zip(self.convs, self.out, strict=True):
            a, b = layer(F.pad(x, (layer.dilation[0], 0))).chunk(2, 1)
            kept, skip = out(torch.tanh(a) * torch.sigmoid(b)).chunk(2, 1)
            x, total = x + kept, total + skip
        return self.end(total)


def tcn():
    """Return a temporal convolutional network with weight norms."""

    def layer(i, o):
        norm = torch.nn.utils.parametrizations.weight_norm
        return nn.Sequential(nn.ZeroPad1d((2, 0)), norm(nn.Conv1d(i, o, 3)), nn.ReLU(), nn.Dropout())

    return nn.Sequential(layer(4, 8), layer(8, 12), nn.Conv1d(12, 3, 1))


class Conformer(nn.Module):
    """Half feed-forward, attention, a gated convolution, half feed-forward."""

    def __init__(self, width=16):
        super().__init__()
        self.start, self.a, self.b = nn.Linear(4, width), Mlp(width), Mlp(width)
        self.attn, self.norm = nn.MultiheadAttention(width, 4, batch_first=True), nn.BatchNorm1d(width)
        self.gate, self.deep = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 3, 1, 1, groups=width)
        self.back, self.last, self.head = nn.Conv1d(width, width, 1), nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.mT)
        x = x + 0.5 * self.a(x)
        x = x + self.attn(x, x, x)[0]
        y = F.silu(self.norm(self.deep(F.glu(self.gate(x.mT), 1))))
        x = x + self.back(y).mT
        return self.head(self.last(x + 0.5 * self.b(x)))


class Selective(nn.Module):
    """A selective state space, step by step (Mamba)."""

    def __init__(self, width=8, state=4):
        super().__init__()
        self.start, self.proj = nn.Linear(4, width), nn.Linear(width, 4 * width)
        self.state, self.inner = state, 2 * width
        self.conv = nn.Conv1d(2 * width, 2 * width, 3, padding=2, groups=2 * width)
        self.x, self.dt = nn.Linear(2 * width, 2 + 2 * state, bias=False), nn.Linear(2, 2 * width)
        self.a, self.d = nn.Parameter(torch.rand(2 * width, state)), nn.Parameter(torch.ones(2 * width))
        self.out, self.head = nn.Linear(2 * width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.mT)
        y, z = self.proj(x).chunk(2, -1)
        y = F.silu(self.conv(y.mT)[..., : x.shape[1]]).mT
        dt, b, c = self.x(y).split([2, self.state, self.state], -1)
        dt = F.softplus(self.dt(dt))
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.a))
        add, h, outs = dt.unsqueeze(-1) * b.unsqueeze(2) * y.unsqueeze(-1), 0, []
        for step in range(x.shape[1]):
            h = decay[:, step] * h + add[:, step]
            outs.append(torch.einsum("bds,bs->bd", h, c[:, step]))
        y = (torch.stack(outs, 1) + y * self.d) * F.silu(z)
        return self.head(x + self.out(y))


class Weighted(nn.Module):
    """Time mixing with decays, and channel mixing by squares (RWKV)."""

    def __init__(self, width=8):
        super().__init__()
        self.start, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.k, self.v, self.r, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.mix, self.decay = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.key, self.value = (
            nn.Linear(width, 2 * width, bias=False),
            nn.Linear(2 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.mT)
        mixed = x * self.mix + F.pad(x, (0, 0, 1, -1)) * (1 - self.mix)
        k, v, r = self.k(mixed), self.v(mixed), torch.sigmoid(self.r(mixed))
        top, below, outs = 0, 1e-3, []
        for step in range(x.shape[1]):
            top = top * torch.exp(-self.decay) + torch.exp(k[:, step]) * v[:, step]
            below = below * torch.exp(-self.decay) + torch.exp(k[:, step])
            outs.append(top / below)
        x = x + self.out(r * torch.stack(outs, 1))
        return self.head(x + self.value(torch.relu(self.key(x)).square()))


class Experts(nn.Module):
    """A dense mixture: all experts run, the best two count (soft mixture of experts)."""

    def __init__(self, width=8, experts=3):
        super().__init__()
        self.start, self.route, self.head = (
            nn.Linear(4, width),
            nn.Linear(width, experts),
            nn.Linear(width, 3),
        )
        self.up = nn.Parameter(torch.randn(experts, width, 12))
        self.down = nn.Parameter(torch.randn(experts, 12, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.mT)
        best, where = self.route(x).softmax(-1).topk(2, -1)
        weights = torch.zeros(*x.shape[:2], self.up.shape[0]).to(x).scatter(-1, where, best)
        h = F.gelu(torch.einsum("bnd,edf->bnef", x, self.up))
        return self.head(x + torch.einsum("bnef,efd,bne->bnd", h, self.down, weights))


class Points(nn.Module):
    """Shared layers, a maximum over points, a learned transform (PointNet)."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Sequential(
            nn.Conv1d(4, 12, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(12, 16)
        )
        self.body = nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 12, 1))
        self.head = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.bmm(self.turn(x).view(-1, 4, 4) + torch.eye(4).to(x), x)
        return self.head(self.body(x).max(2)[0])


class Graph(nn.Module):
    """Two graph convolutions and attention on edges, with a dense adjacency (GCN, GAT)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 12, bias=False), nn.Linear(12, 3)
        self.left, self.right = nn.Parameter(torch.randn(12, 1)), nn.Parameter(torch.randn(12, 1))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        degree = edges.sum(-1).clamp(min=1).rsqrt()
        h = F.relu(self.a(degree[..., None] * edges * degree[:, None] @ x.mT))
        h = self.b(h)
        scores = F.leaky_relu(h @ self.left + (h @ self.right).mT, 0.2)
        return self.c(F.elu(scores.masked_fill(edges == 0, -1e9).softmax(-1) @ h))


class Tables(nn.Module):
    """Bags of rows, their dot products, dense features (DLRM, NCF)."""

    def __init__(self, width=8):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(11, width, mode=m) for m in ("sum", "mean"))
        self.users, self.bottom = (
            nn.Embedding(11, width),
            nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, width)),
        )
        self.top = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, dense: Tensor, rows: Tensor) -> Tensor:
        found = [bag(rows) for bag in self.bags]
        all_ = torch.stack([self.bottom(dense), *found, self.users(rows[:, 0])], 1)
        return self.top(torch.bmm(all_, all_.mT).flatten(1))


FAMILIES = {
    "ResMLP": lambda: Tokens(
        nn.Sequential(nn.AdaptiveAvgPool2d((1, None)), nn.Flatten(), nn.Linear(16, 3)), Lines(16), Lines(16)
    ),
    "GFNet": lambda: Vit(Block(16, Fourier(16)), token=False, pool="mean"),
    "WaveNet": Gated,
    "TCN": tcn,
    "Conformer": Conformer,
    "Mamba": Selective,
    "RWKV": Weighted,
    "Experts": Experts,
    "PointNet": Points,
    "Graph": Graph,
    "DLRM": Tables,
}
ROWS = torch.arange(6).reshape(2, 3)
EXAMPLES = {name: lambda: (torch.randn(2, 4, 6),) for name in FAMILIES if name not in ("ResMLP", "GFNet")} | {
    "Graph": lambda: (torch.randn(2, 4, 6), torch.ones(2, 6, 6).tril()),
    "DLRM": lambda: (torch.randn(2, 4), ROWS),
}
