"""Random small networks: a list of steps, each of which takes a map of channels and gives one."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

SIDE = 4  # height and width of every map


class Step(nn.Module):
    """One step: layers by name, and what is done with them."""

    def __init__(self, run, **layers: nn.Module):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(c, n):
    kernel = 1 + 2 * (n % 2)
    made = nn.Conv2d(c, n, kernel, padding=kernel // 2, bias=n % 3 > 0)
    return Step(lambda s, x: s.a(x), a=made), n


def act(c, n):
    kinds = (torch.relu, torch.sigmoid, F.gelu, torch.tanh, torch.cos, F.hardswish)
    return Step(lambda s, x: kinds[n % 6](x)), c


def batch_norm(c, n):
    layer = nn.BatchNorm2d(c)
    nn.init.normal_(layer.running_mean)
    nn.init.normal_(layer.bias)
    return Step(lambda s, x: s.a(x), a=layer), c


def group_norm(c, n):
    groups = next(g for g in (3, 2, 1) if c % g == 0)
    return Step(lambda s, x: s.a(x), a=nn.GroupNorm(groups, c)), c


def layer_norm(c, n):
    return Step(lambda s, x: s.a(x.movedim(1, -1)).movedim(-1, 1), a=nn.LayerNorm(c)), c


def depthwise(c, n):
    return Step(lambda s, x: s.a(x), a=nn.Conv2d(c, c, 3, padding=1, groups=c)), c


def grouped(c, n):
    groups = next(g for g in (3, 2, 1) if c % g == 0)
    return Step(lambda s, x: s.a(x), a=nn.Conv2d(c, 2 * groups * (1 + n % 3), 1, groups=groups)), (
        2 * groups * (1 + n % 3)
    )


def residual(c, n):
    return Step(
        lambda s, x: x + s.b(torch.relu(s.a(x))), a=nn.Conv2d(c, n, 1), b=nn.Conv2d(n, c, 3, padding=1)
    ), c


def dense(c, n):
    return Step(lambda s, x: torch.cat([x, s.a(x)], 1), a=nn.Conv2d(c, n, 1)), c + n


def excite(c, n):
    def run(s, x):
        return x * torch.sigmoid(s.b(torch.relu(s.a(x.mean((2, 3), keepdim=True)))))

    return Step(run, a=nn.Conv2d(c, n, 1), b=nn.Conv2d(n, c, 1)), c


def shuffle(c, n):
    g = next(g for g in (3, 2, 1) if c % g == 0)

    def run(s, x):
        return x.view(len(x), g, -1, SIDE, SIDE).transpose(1, 2).reshape(len(x), -1, SIDE, SIDE)

    return Step(run), c


def gate(c, n):
    def run(s, x):
        a, b = s.a(x).chunk(2, 1)
        return a * torch.sigmoid(b)

    return Step(run, a=nn.Conv2d(c, 2 * n, 1)), n


def parts(c, n):
    """Split unequally, do something to one part, and lay them side by side in another order."""
    first = max(1, min(c - 1, n % c))
    if c < 2:
        return Step(lambda s, x: x), c

    def run(s, x):
        a, b = x.split([first, c - first], 1)
        return torch.cat([s.a(b), a], 1)

    return Step(run, a=nn.Conv2d(c - first, n, 1)), n + first


def flip(c, n):
    return Step(lambda s, x: torch.cat([x, x.flip(1)], 1) if n % 2 else x.flip(1) + x), c * (1 + n % 2)


def attention(c, n):
    heads, inside = 1 + n % 3, 2

    def run(s, x):
        b = len(x)
        q, k, v = s.a(x.flatten(2).mT).reshape(b, -1, 3, heads, inside).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.mT).softmax(-1) if n % 2 else (q @ k.mT).sigmoid()
        y = (a @ v).transpose(1, 2).reshape(b, SIDE * SIDE, -1)
        return x + s.b(y).mT.reshape(b, c, SIDE, SIDE)

    return Step(run, a=nn.Linear(c, 3 * heads * inside), b=nn.Linear(heads * inside, c)), c


def shared_keys(c, n):
    def run(s, x):
        b, heads = len(x), 4
        y = x.flatten(2).mT
        q = s.q(y).view(b, -1, heads, 2).transpose(1, 2)
        k, v = s.kv(y).view(b, -1, 2, 2, 2).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return s.o(z.transpose(1, 2).flatten(2)).mT.reshape(b, n, SIDE, SIDE)

    return Step(run, q=nn.Linear(c, 8), kv=nn.Linear(c, 8), o=nn.Linear(8, n)), n


def positions(c, n):
    return Step(
        lambda s, x: s.b(torch.relu(s.a(x.flatten(2)))).view_as(x), a=nn.Linear(16, n), b=nn.Linear(n, 16)
    ), c


def pixels(c, n):
    small = nn.Conv2d(c, 4 * n, 3, stride=2, padding=1)
    return Step(lambda s, x: F.pixel_shuffle(s.a(x), 2), a=small), n


def outer(c, n):
    """Multiply two maps over their positions and use the product as weights."""

    def run(s, x):
        y = s.a(x).flatten(2)
        w = torch.einsum("bip,bjp->bij", y, x.flatten(2))
        return torch.einsum("bij,bjp->bip", w, x.flatten(2)).reshape(len(x), n, SIDE, SIDE) / 16

    return Step(run, a=nn.Conv2d(c, n, 1)), n


def twice(c, n):
    return Step(lambda s, x: x + s.a(torch.tanh(s.a(x))), a=nn.Conv2d(c, c, 1)), c


def memory(c, n):
    def run(s, x):
        return s.a(x.flatten(2).mT)[0].mT.reshape(len(x), -1, SIDE, SIDE)

    return Step(run, a=nn.GRU(c, n, batch_first=True)), n


STEPS = (
    *(conv, act, batch_norm, group_norm, layer_norm, depthwise, grouped, residual, dense, excite, shuffle),
    *(gate, parts, flip, attention, shared_keys, positions, pixels, outer, twice, memory),
)


def network(chosen: list[tuple[int, int]]) -> nn.Module:
    """Return the steps in a row, between a first convolution and a last layer that reads the mean."""
    c, steps = 6, [nn.Conv2d(3, 6, 1)]
    for kind, n in chosen:
        step, c = STEPS[kind](c, n)
        steps.append(step)
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 2))
