import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.prune import Block, Channel, find_masks, local

REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "l2": lambda tile: np.sqrt(np.square(tile).sum()),
}
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@reductions
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sides=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
@settings(max_examples=30)
def test_a_tile_is_scored_by_the_elements_it_has(reduction, shape, sides):
    scores = drawn(*shape)
    rule = Block(height=sides[0], width=sides[1], reduction=reduction)
    tall, wide = (side or size for side, size in zip(sides, shape, strict=True))
    matrix = scores.double().numpy()
    expected = [
        [REDUCTIONS[reduction](matrix[i : i + tall, j : j + wide]) for j in range(0, shape[1], wide)]
        for i in range(0, shape[0], tall)
    ]
    np.testing.assert_allclose(rule.reduce({"w": scores})["w"], expected, rtol=1e-5, atol=1e-6)
    keep = torch.tensor(np.random.default_rng(0).random(np.shape(expected)) < 0.5)
    mask = rule.expand({"w": keep}, {"w": scores})["w"]
    for i, j in np.ndindex(*shape):
        assert mask[i, j] == keep[i // tall, j // wide]


def test_tiles_of_a_convolution_lie_on_its_matrix():
    weight = drawn(4, 2, 3, 3)
    units = Block(height=2, width=6).reduce({"w": weight})["w"]
    torch.testing.assert_close(units, Block(height=2, width=6).reduce({"w": weight.view(4, 18)})["w"])
    mask = find_masks({"w": weight}, 0.5, pattern=Block(height=2, width=6))["w"].view(2, 2, 3, 6)
    tiles = mask.permute(0, 2, 1, 3).reshape(6, 12)
    assert torch.equal(tiles.any(1), tiles.all(1))
    assert tiles.any(1).sum() == 3


def test_a_smaller_tile_is_not_punished_by_a_mean():
    weight = torch.ones(3, 3)
    weight[2, 2] = 2.0  # the last tile has one element only
    keep = find_masks({"w": weight}, 0.75, pattern=Block(height=2, width=2))["w"]
    assert keep[2, 2]
    assert keep.sum() == 1


def test_whole_heads_go_from_a_projection():
    queries, joining = drawn(8, 6), drawn(6, 8)  # four heads of size two
    rows = find_masks({"w": queries}, 0.5, pattern=Block(height=2, width=0))["w"]
    assert rows.view(4, -1).all(1).sum() == 2 == rows.view(4, -1).any(1).sum()
    columns = find_masks({"w": joining}, 0.5, pattern=Block(height=0, width=2))["w"].T.reshape(4, -1)
    assert columns.all(1).sum() == 2 == columns.any(1).sum()


@reductions
@pytest.mark.parametrize("dim", [0, 1, -1, (0, 1), (1, 0), (2, 3)])
def test_a_channel_is_scored_along_all_other_dimensions(reduction, dim):
    scores = drawn(4, 3, 2, 5)
    own = sorted({d % 4 for d in (dim if isinstance(dim, tuple) else (dim,))})
    units = Channel(dim=dim, reduction=reduction).reduce({"w": scores})["w"]
    assert list(units.shape) == [scores.shape[d] for d in own]
    lines = np.moveaxis(scores.double().numpy(), own, range(len(own))).reshape(*units.shape, -1)
    for place in np.ndindex(*units.shape):
        assert units[place].item() == pytest.approx(REDUCTIONS[reduction](lines[place]), rel=1e-5, abs=1e-6)


def test_a_kernel_lives_or_dies_whole():
    mask = find_masks({"w": drawn(6, 4, 3, 3)}, 0.5, pattern=Channel(dim=(0, 1)), scope=local)["w"].flatten(2)
    assert torch.equal(mask.any(2), mask.all(2))
    assert mask.any(2).sum() == 12


@pytest.mark.parametrize("rule", [Block, Channel])
def test_half_precision_is_summed_in_single(rule):
    scores = torch.full((4, 4096), 1.0, dtype=torch.bfloat16)
    units = rule(reduction="sum").reduce({"w": scores})["w"]
    assert units.dtype is torch.float32
    assert units.sum() == 4 * 4096


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Channel(reduction="avg"), "prune.Channel: unknown reduction 'avg'"),
        (lambda: Block(reduction="meen"), "prune.Block: unknown reduction 'meen'; did you mean 'mean'"),
        (lambda: Block(height=-1), "height and width must be at least 1, or 0 for all; got height=-1"),
    ],
)
def test_a_mistake_is_told(make, says):
    with pytest.raises(ValueError, match=says):
        make()
