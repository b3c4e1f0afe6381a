"""Operations that channels cannot be removed through are named, all in one graph; caches of a forward go."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.tensors import apply_masks_

# What is done to `h` of shape (2, 6, 4, 4), and what its channels are frozen by.
FROZEN = {
    "diag_embed": lambda h: torch.diag_embed(h.mean((2, 3))),
    "diagonal": lambda h: h.diagonal(0, 1, 2),
    "as_strided": lambda h: h.contiguous().as_strided((2, 6, 2, 2), (96, 16, 8, 2)),
    "diagonal_scatter": lambda h: h.diagonal_scatter(2 * h.diagonal(0, 2, 3), 0, 2, 3),
    "masked_scatter": lambda h: h.masked_scatter(h > 0, 2 * h),
    "take": lambda h: h.take(torch.tensor([0, 1]))[None].expand(2, -1),
    "put": lambda h: h.put(torch.tensor([0, 1]), torch.ones(2).to(h)),
    "scatter": lambda h: h.scatter(1, torch.zeros(2, 1, 4, 4, dtype=torch.long), 0.5),
    "slice_scatter": lambda h: h.slice_scatter(2 * h[:, :2], 1, 1, 3),
    "sort": lambda h: h.sort(1)[0],
    "cumsum": lambda h: h.cumsum(1),
    "trapezoid": lambda h: torch.trapezoid(h, dim=2),
    "fft_fft": lambda h: torch.fft.fft(h, dim=1).abs(),
    "pairwise_distance": lambda h: F.pairwise_distance(h.flatten(2).mT, 2 * h.flatten(2).mT),
    "pdist": lambda h: torch.pdist(h.mean((2, 3)))[None].expand(2, -1),
    "linalg_matrix_norm": lambda h: h / (1 + torch.linalg.matrix_norm(h, keepdim=True)),
    "kron": lambda h: torch.stack([torch.kron(x.mean(2), x.mean(2)) for x in h]),
    "linalg_inv": lambda h: torch.linalg.inv(h + 9 * torch.eye(4).to(h)),
    "one_hot": lambda h: h * F.one_hot(h.argmax(2), 4).to(h).movedim(-1, 2),
    "bucketize": lambda h: h * torch.bucketize(h, torch.tensor([-0.5, 0.5]).to(h)),
    "avg_pool3d": lambda h: F.local_response_norm(h, 3),
    "fractional_max_pool2d": lambda h: F.fractional_max_pool2d(h, 2, output_size=2),
    "affine_grid_generator": lambda h: F.affine_grid(
        h.mean((2, 3)).view(2, 2, 3), (2, 1, 4, 4), align_corners=False
    ),
    "conv_transpose2d": lambda h: F.conv_transpose2d(h, torch.ones(6, 2, 2, 2).to(h), groups=2),
    "softmax": lambda h: h.softmax(1),
    "roll": lambda h: h.roll(1, 1),
    "index": lambda h: h[:, torch.tensor([2, 0, 1])],
    "stft": lambda h: torch.view_as_real(
        h.flatten(1).stft(16, window=torch.ones(16).to(h), return_complex=True, center=False)
    ),
    "quantile": lambda h: h.quantile(0.5, 2),
    "block_diag": lambda h: torch.block_diag(*h.mean(3))[None].expand(2, -1, -1),
    "mean": lambda h: h * h.mean(1, keepdim=True),
    "amax": lambda h: h * h.amax(1, keepdim=True),
}


class Through(nn.Module):
    """For each operation a layer before it and one behind; beside them layers that always shrink."""

    def __init__(self):
        super().__init__()
        self.first = nn.ModuleDict({name: nn.Conv2d(3, 6, 1) for name in FROZEN})
        self.read = nn.ModuleDict({name: nn.LazyLinear(3) for name in FROZEN})
        self.free = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Tanh(), nn.Conv2d(6, 3, 1))

    def forward(self, x):
        done = {name: op(self.first[name](x)).flatten(1) for name, op in FROZEN.items()}
        return [self.read[name](y) for name, y in done.items()] + [self.free(x)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_stops_channels_is_named_and_stops_no_others():
    torch.manual_seed(0)
    model, x = Through().double(), torch.randn(2, 3, 4, 4).double()
    model(x)
    groups = channel_groups(model, x)
    assert list(groups.groups) == ["free.0.weight"]
    why = {
        part.parameter.split(".")[1]: group.reason
        for group in groups.frozen
        for part in group.slices
        if part.parameter.startswith("first.") and part.parameter.endswith("weight") and part.dim == 0
    }
    assert {name: reason for name, reason in why.items() if f"aten.{name}" not in reason} == {}
    assert why.keys() == FROZEN.keys()
    masks = groups.expand({"free.0.weight": torch.arange(6) < 2}, dict(model.named_parameters()))
    assert shrink_(model, groups, masks).removed == {"free.0.weight": [2, 3, 4, 5]}


@pytest.mark.parametrize(
    "forward",
    [lambda h: h * h[h > 0].sum(), lambda h: h * len(torch.nonzero(h)), lambda h: h * h.unique()[0]],
)
def test_sizes_that_depend_on_values_are_refused_in_words(forward):
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 4)

        def forward(self, x):
            return forward(self.first(x))

    with pytest.raises(ValueError, match=r"shrink.channel_groups: .* cannot be"):
        channel_groups(Sized(), torch.randn(2, 3))


class Caching(nn.Module):
    """A bias of each head that is looked up once and kept while nothing trains, as in LeViT."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 2, 1)
        self.table = nn.Parameter(torch.randn(6, 3))
        self.kept = {}

    def train(self, mode=True):
        self.kept = {} if mode else self.kept
        return super().train(mode)

    def forward(self, x):
        if "bias" not in self.kept:
            self.kept["bias"] = self.table[:, torch.tensor([0, 1, 2, 1])]
        return self.last(torch.relu(self.first(x)) * self.kept["bias"])


def test_what_a_forward_keeps_is_forgotten_before_and_after_the_cut():
    model, x = Caching().eval(), torch.randn(2, 3, 4)
    model(x)  # keeps a tensor that torch refuses to copy
    groups = channel_groups(model, x)
    masks = groups.expand({"first.weight": torch.arange(6) < 2}, dict(model.named_parameters()))
    assert shrink_(model, groups, masks).removed == {"first.weight": [2, 3, 4, 5]}
    assert model.table.shape == (2, 3) and not model.training
    assert model(x).shape == (2, 2, 4)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated")
def test_layers_with_weight_norms_lose_channels_and_no_direction_becomes_zero(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Conv1d(3, 6, 1)), nn.Tanh(), norm(nn.Conv1d(6, 2, 1))).double()
    x = torch.randn(2, 3, 4).double()
    model(x)
    groups = channel_groups(model, x)
    (name,) = groups.groups
    masks = groups.expand({name: torch.arange(6) % 3 == 0}, dict(model.named_parameters()))
    masked = copy.deepcopy(model) if norm is nn.utils.parametrizations.weight_norm else None
    shrunk = shrink_(model, groups, masks)
    assert shrunk.removed == {name: [1, 2, 4, 5]}
    assert model(x).isfinite().all()
    if masked is not None:
        apply_masks_(dict(masked.named_parameters()), masks)
        torch.testing.assert_close(model(x), masked(x))
    model(x).sum().backward()
