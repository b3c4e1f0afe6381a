"""Values that are shared, against NumPy written from the papers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.pack import kmeans, share, uniform


def lloyd(weights, levels, rounds):
    """Deep Compression, section 3.1: linear initialisation, Lloyd's rounds over all weights that stay."""
    centroids = np.linspace(weights.min(), weights.max(), levels)
    for _ in range(rounds):
        nearest = np.abs(weights[:, None] - centroids[None]).argmin(1)
        centroids = np.array(
            [weights[nearest == k].mean() for k in range(len(centroids)) if (nearest == k).any()]
        )
    return centroids[np.abs(weights[:, None] - centroids[None]).argmin(1)]


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_kmeans_is_lloyds_from_linear_centroids(bits):
    torch.manual_seed(0)
    weight = torch.randn(40, 25) * (torch.rand(40, 25) < 0.5)
    kept = weight != 0
    expected = lloyd(weight[kept].double().numpy(), 2**bits - 1, 100)
    values = kmeans(weight, bits=bits).values()
    np.testing.assert_allclose(values[kept].numpy(), expected, rtol=6e-4)  # centroids are halves


@settings(max_examples=30)
@given(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=60), st.integers(2, 5))
def test_every_element_has_the_nearest_centroid(elements, bits):
    weight = torch.tensor(elements)
    shared = kmeans(weight, bits=bits)
    table = shared.table()[0, 1:].double()
    for element, value in zip(weight.double(), shared.values().double(), strict=True):
        nearest = (table - element).abs().min() if len(table) else 0
        assert value == 0 if element == 0 else abs(value - element) <= nearest + 1e-9


def test_few_values_are_kept_bit_for_bit():
    weight = torch.tensor([0.1, 0.2, 0.3])[torch.arange(90_000) % 3].view(300, 300)
    assert torch.equal(kmeans(weight, bits=2).values(), weight)


def test_groups_of_channels_have_tables_of_their_own():
    weight = torch.cat([torch.randn(3, 20), 100 * torch.randn(2, 20)])
    shared = kmeans(weight, bits=3, groups=2)
    assert shared.learned.shape == (2, 7)
    rows = torch.arange(5) * 2 // 5
    for group in (0, 1):
        alone = kmeans(weight[rows == group], bits=3).values()
        assert torch.equal(shared.values()[rows == group], alone)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("groups", [None, 1, 3])
def test_uniform_is_rounding_to_a_step_for_each_run_of_channels(bits, groups):
    torch.manual_seed(0)
    weight = torch.randn(7, 4, 3)
    most = 2 ** (bits - 1) - 1
    rows = np.arange(7) * (groups or 7) // 7
    flat = weight.double().numpy().reshape(7, -1)
    steps = np.array([np.abs(flat[rows == row]).max() / most for row in rows])[:, None]
    expected = np.clip(np.round(flat / steps), -most, most) * steps
    values = uniform(weight, bits=bits, groups=groups).values()
    np.testing.assert_allclose(values.flatten(1).numpy(), expected, rtol=1e-6)


def test_a_channel_of_zeros_has_no_step_and_stays():
    weight = torch.tensor([[0.0, 0.0], [3.0, -3.0]])
    assert torch.equal(uniform(weight, bits=4).values(), weight)


def test_bits_go_to_the_names_that_patterns_fit():
    state = {"a.weight": torch.randn(4, 4), "b.weight": torch.randn(4), "count": torch.tensor(3)}
    assert {n: s.bits for n, s in share(state, bits=3).items()} == {"a.weight": 3}
    assert {n: s.bits for n, s in share(state, bits={"a.*": 2, "*": 5}).items()} == {
        "a.weight": 2,
        "b.weight": 5,
    }
    with pytest.raises(ValueError, match=r"unknown tensor 'c\.weight'; did you mean"):
        share(state, bits={"c.weight": 2})


def test_masks_remove_before_values_are_shared():
    weight = torch.tensor([[5.0, 1.0, 2.0]])
    shared = share({"w": weight}, bits=2, masks={"w": torch.tensor([[False, True, True]])})
    assert shared["w"].values().tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="the mask of 'w' must hold booleans of shape"):
        share({"w": weight}, masks={"w": torch.ones(1, 3)})
    with pytest.raises(ValueError, match=r"'w': pack\.kmeans: a weight with NaN"):
        share({"w": weight * float("nan")})
