"""Small networks of many kinds, with the groups one finds in them by hand."""

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own examples have it
from torch import Tensor, nn

from tonsor.shrink.nets_sequence_test import Attending, Sequenced


def mlp(bias=True, act=nn.ReLU):
    return nn.Sequential(
        nn.Linear(5, 6, bias), act(), nn.Dropout(0.5), nn.Linear(6, 7, bias), act(), nn.Linear(7, 3, bias)
    )


def vgg():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * 4, 5),
        nn.Sigmoid(),
        nn.Linear(5, 3),
    )


class Residual(nn.Module):
    """A stem, a block whose shortcut is the identity, one with a downsampling convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1, bias=False)
        self.an = nn.BatchNorm2d(4)
        self.b1, self.b2 = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 1, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.an(self.a2(F.gelu(self.a1(x)))))
        x = torch.relu_(self.down(x) + self.b2(torch.relu(self.b1(x))))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """A depthwise block with squeeze and excitation, as in MobileNetV3."""

    def __init__(self):
        super().__init__()
        self.expand, self.n1 = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depth, self.n2 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.project = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.n1(self.expand(x)))
        x = F.hardswish(self.n2(self.depth(x)))
        s = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        x = self.project(x * torch.sigmoid(s))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    """One step down, one up, and a concatenation with the skip."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.up = nn.ConvTranspose2d(5, 3, 2, 2)
        self.last, self.out = nn.Conv2d(7, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down(x))
        deep = torch.relu(self.deep(F.avg_pool2d(skip, 2)))
        both = torch.cat([self.up(deep), skip], 1)
        return self.out(F.leaky_relu(self.last(both)))


class Normed(nn.Module):
    """Two residual feed-forward blocks that are normalised before, on tokens with learned positions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.place = nn.Parameter(torch.randn(1, 4, 6))
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)
        self.gate = nn.Linear(6, 10)
        self.back = nn.Linear(5, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        x = x + self.back(F.glu(self.gate(x), -1))
        return self.head(x)[:, 0]


class Stream(nn.Module):
    """A residual stream without a norm: its width can shrink too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.place = nn.Parameter(torch.randn(1, 4, 6))
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)
        self.mix, self.back = nn.Linear(4, 5), nn.Linear(5, 4)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        x = x + self.back(torch.tanh(self.mix(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


class Shuffled(nn.Module):
    """Grouped convolutions and a channel shuffle between, as in ShuffleNet; a pixel shuffle at the end."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.again = nn.Conv2d(8, 6, 1, groups=2)
        self.wide, self.last = nn.Conv2d(6, 16, 1), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.relu(self.grouped(self.first(x))))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.last(F.pixel_shuffle(self.wide(torch.relu(self.again(x))), 2))


class Tied(nn.Module):
    """An embedding whose weight is the head's too, and one layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for _ in range(2):
            x = x + self.down(torch.sigmoid(self.up(x)))
        return self.head(x)


class Hardcoded(nn.Module):
    """The first network of many tutorials: a view whose size is a number."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(1, 4, 3), nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).view(-1, 16)
        return self.head(torch.relu(self.hidden(x)))


TOKENS = (2, 4)  # the one shape whose example is integers
# Every network that shrinks, the shape of its example, and its groups: units, parameters a unit.
NETS = {
    "mlp": (mlp, (3, 5), {"0.weight": (6, 13), "3.weight": (7, 10)}),
    "no bias": (lambda: mlp(False, nn.Sigmoid), (3, 5), {"0.weight": (6, 12), "3.weight": (7, 9)}),
    "vgg": (vgg, (2, 2, 8, 8), {"0.weight": (6, 92), "4.weight": (8, 77), "8.weight": (5, 36)}),
    "residual": (
        Residual,
        (2, 2, 6, 6),
        {"stem.weight": (4, 173), "a1.weight": (5, 73), "b1.weight": (6, 109), "b2.weight": (8, 63)},
    ),
    "mobile": (
        Mobile,
        (2, 3, 5, 5),
        {"expand.weight": (6, 29), "squeeze.weight": (4, 13), "project.weight": (4, 9)},
    ),
    "u-net": (
        UNet,
        (2, 2, 4, 4),
        {"down.weight": (4, 100), "deep.weight": (5, 49), "up.weight": (3, 57), "last.weight": (4, 65)},
    ),
    "normed": (Normed, TOKENS, {"up.weight": (9, 13), "gate.weight": (5, 20)}),
    "stream": (Stream, TOKENS, {"embed.weight": (6, 37), "up.weight": (9, 13), "mix.weight": (5, 9)}),
    "shuffled": (
        Shuffled,
        (2, 2, 4, 4),
        {
            "first.weight": (4, 78),
            "grouped.weight": (2, 168),
            "again.weight": (3, 42),
            "wide.weight": (4, 46),
        },
    ),
    "tied": (Tied, TOKENS, {"embed.weight": (6, 28), "up.weight": (8, 13)}),
    "attending": (
        Attending,
        (2, 3, 5),
        {"block.self_attn.in_proj_weight": (2, 140), "block.linear1.weight": (16, 17)},
    ),
    "sequenced": (
        Sequenced,
        (2, 3, 5),
        {
            "first.weight": (8, 10),
            "inner.weight": (4, 37),
            "lstm.weight_ih_l0": (7, 82),
            "hidden.weight": (6, 10),
        },
    ),
}


def built(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in float64 with weights and statistics that are not those it starts with."""
    make, shape, _ = NETS[name]
    torch.manual_seed(0)
    model = make().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, torch.arange(8).reshape(2, 4) if shape is TOKENS else torch.randn(shape).double()
