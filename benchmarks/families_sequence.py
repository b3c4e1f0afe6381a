"""Networks of sequences, tables, graphs and sets, small and from memory, for the table of what shrinks."""

import torch
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


FAMILIES = {
    "ResMLP": lambda: Tokens(
        nn.Sequential(nn.AdaptiveAvgPool2d((1, None)), nn.Flatten(), nn.Linear(16, 3)), Lines(16), Lines(16)
    ),
    "GFNet": lambda: Vit(Block(16, Fourier(16)), token=False, pool="mean"),
}
