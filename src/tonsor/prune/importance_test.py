from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import Channel, collect, find_masks, magnitude, needs, per_output, random, wanda


def sums_of_squares(inputs, weight, groups, height, width):
    """Return the sum of squares each weight meets, by explicit loops over the channels of its group."""
    per_group, rows = weight.shape[1], weight.shape[0] // groups
    found = np.zeros(weight.shape)
    for out in range(weight.shape[0]):
        for channel in range(per_group):
            seen = inputs[:, out // rows * per_group + channel]
            places = [(n, y, x) for n in range(len(seen)) for y in range(height) for x in range(width)]
            found[out, channel] = sum(seen[place] ** 2 for place in places)
    return found


def test_magnitude_orders_by_size_whatever_the_sign():
    masks = find_masks({"w": torch.tensor([-5.0, 1.0, -2.0, 3.0])}, 0.5, importance=magnitude)
    assert masks["w"].tolist() == [True, False, False, True]


def test_the_power_of_magnitude_decides_between_the_norms_of_channels():
    weight = {"w": torch.tensor([[2.0, 2.0, 2.0], [3.0, 2.5, 0.0]])}  # 1-norms 6, 5.5; squares 12, 15.25
    first, second = (
        find_masks(weight, 0.5, importance=partial(magnitude, power=power), pattern=Channel())["w"]
        for power in (1, 2)
    )
    assert first[:, 0].tolist() == [True, False]
    assert second[:, 0].tolist() == [False, True]


def test_the_square_of_a_half_does_not_vanish():
    tiny = torch.tensor([1e-5, 2e-5], dtype=torch.float16)
    assert magnitude(tiny, power=2.0).unique().numel() == 2


def test_a_power_that_orders_nothing_is_refused():
    with pytest.raises(ValueError, match="power must be above 0; got 0"):
        magnitude(torch.ones(2), power=0)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_wanda_of_a_convolution_is_that_of_explicit_loops(groups):
    torch.manual_seed(0)
    model = nn.Conv2d(4, 8, 3, groups=groups, padding=1)
    batches = [torch.randn(n, 4, 5, 6) for n in (2, 3)]
    stats = collect(model, [(x, None) for x in batches], names=needs(wanda))
    inputs = torch.cat(batches).double().numpy()
    squares = sums_of_squares(inputs, model.weight, groups, 5, 6)
    oracle = np.abs(model.weight.detach().numpy()) * np.sqrt(squares)
    np.testing.assert_allclose(wanda(model.weight, stats["weight"]["input_norm"]), oracle, rtol=1e-5)


def test_wanda_of_a_linear_layer_is_that_of_explicit_loops():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batches = [torch.randn(2, 7, 3), torch.randn(4, 7, 3)]  # samples, positions, features
    stats = collect(model, [(x, None) for x in batches], names=needs(wanda))
    oracle = np.zeros((2, 3))
    for i in range(2):
        for j in range(3):
            norm = sum(float(v) ** 2 for batch in batches for v in batch[:, :, j].flatten()) ** 0.5
            oracle[i, j] = abs(model.weight[i, j].item()) * norm
    np.testing.assert_allclose(wanda(model.weight, stats["weight"]["input_norm"]), oracle, rtol=1e-5)


def test_wanda_within_each_output_removes_the_same_of_every_row():
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    stats = {"w": {"input_norm": torch.arange(1.0, 9.0).view(1, 8)}}
    masks = find_masks({"w": weight}, 0.5, stats=stats, importance=wanda, scope=per_output)
    oracle = np.argsort(np.abs(weight.numpy()) * np.arange(1, 9), axis=1)[:, 4:]
    for mask, kept in zip(masks["w"], oracle, strict=True):
        assert set(torch.nonzero(mask).flatten().tolist()) == set(kept.tolist())


def test_random_differs_by_name_and_seed_and_not_by_type():
    weight = torch.zeros(100)
    first = random(weight, "a")
    assert not torch.equal(first, random(weight, "b"))
    assert not torch.equal(first, random(weight, "a", seed=1))
    assert not torch.equal(first, random(weight, "a", seed=2**32))  # torch reads 32 bits of its seed
    assert torch.equal(first, random(weight.half(), "a"))


def test_random_is_uniform_and_removes_nested_sets():
    scores = random(torch.zeros(100_000), "w")
    counts = torch.histc(scores, 10, 0, 1)
    assert ((counts - 10_000).abs() < 5 * 9000**0.5).all()  # five standard deviations
    smaller, larger = (find_masks({"w": torch.ones(999)}, s, importance=random)["w"] for s in (0.3, 0.6))
    assert not (larger & ~smaller).any()
