import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Comm, RandomK
from tonsor.compress.workers_test import SIZES, bucket, same, together, workers


def sent_places(rule, grad, steps):
    """Return where something was sent, step by step; the gradient has no zeros."""
    rows = [rule({"w": grad}, Comm()).sent["w"].view(-1) for _ in range(steps)]
    return torch.stack(rows) != 0


@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    density=st.floats(0.001, 1),
    seed=st.integers(0, 99),
    size=st.sampled_from(SIZES),
)
def test_the_mean_is_that_of_k_elements_one_of_each_piece(rows, columns, density, seed, size):
    grads = [bucket(seed + rank, shapes={"w": (rows, columns)}) for rank in range(size)]
    got = together([RandomK(density=density, seed=seed) for _ in range(size)], grads)
    numel = rows * columns
    count = min(numel, max(1, round(density * numel)))
    places = np.flatnonzero(got[0].sent["w"].numpy())
    starts = [piece * numel // count for piece in range(count + 1)]
    assert np.array_equal(np.searchsorted(starts, places, side="right") - 1, np.arange(count))
    want = np.zeros(numel)
    for each in grads:
        want[places] += each["w"].double().numpy().reshape(-1)[places] / size
    np.testing.assert_allclose(got[0].mean["w"].numpy().reshape(-1), want, atol=1e-6)


def test_every_element_of_a_piece_is_equally_likely_and_steps_are_independent():
    steps = 800
    hits = sent_places(RandomK(density=0.1), torch.ones(5, 20), steps)
    by_piece = hits.view(steps, 10, 10)
    assert (by_piece.sum(2) == 1).all()
    expected = steps / 10
    chi = ((by_piece.sum(0) - expected) ** 2 / expected).sum()
    assert 45 < chi < 150  # 90 degrees of freedom: 5 standard deviations around the mean
    chosen = by_piece.long().argmax(2).double()
    follows = torch.corrcoef(torch.stack([chosen[:-1].view(-1), chosen[1:].view(-1)]))[0, 1]
    neighbours = torch.corrcoef(torch.stack([chosen[:, :-1].reshape(-1), chosen[:, 1:].reshape(-1)]))[0, 1]
    assert abs(follows) < 0.06
    assert abs(neighbours) < 0.06


@pytest.mark.parametrize("density", [0.1, 0.07])  # pieces of equal and of unequal size
def test_with_scaling_the_expectation_is_the_gradient(density):
    grad = bucket(0, shapes={"w": (10, 10)})["w"]
    rule = RandomK(density=density, is_unbiased=True)
    steps = 1000
    mean = sum(rule({"w": grad}, Comm()).sent["w"] for _ in range(steps)) / steps
    spread = grad.abs() * (1 / density - 1) ** 0.5 / steps**0.5  # of an element that is sent with that chance
    assert ((mean - grad).abs() < 5 * spread + 1e-6).all()


def test_without_scaling_the_error_is_the_contraction_of_the_paper():
    grad = bucket(0, shapes={"w": (10, 10)})["w"]
    rule = RandomK(density=0.2)
    errors = [(grad - rule({"w": grad}, Comm()).sent["w"]).square().sum() for _ in range(600)]
    want = (1 - 0.2) * grad.square().sum()
    torch.testing.assert_close(torch.stack(errors).mean(), want, rtol=0.03, atol=0)


def test_places_are_not_sent_and_the_cost_does_not_grow_with_the_workers():
    for size in (2, 5):
        comms = workers(size)
        grads = bucket(0, shapes={"w": (100, 100), "bias": (7,)})
        together([RandomK(density=0.01) for _ in range(size)], [grads] * size, comms)
        assert [(comm.bytes_sent, comm.messages) for comm in comms] == [(4 * (100 + 7), 1)] * size


def test_names_and_seeds_have_places_of_their_own():
    grad = torch.ones(40, 50)
    first = {seed: RandomK(seed=seed)({"a": grad, "b": grad}, Comm()).sent for seed in (0, 1)}
    assert not torch.equal(first[0]["a"], first[0]["b"])
    assert not torch.equal(first[0]["a"], first[1]["a"])
    assert same(RandomK()({"b": grad, "a": grad}, Comm()).sent, first[0])


def test_what_is_not_finite_is_seen_wherever_it_stands():
    for place in range(0, 100, 9):
        grads = [{"w": torch.ones(10, 10)} for _ in range(2)]
        grads[1]["w"].view(-1)[place] = torch.nan
        for averaged in together([RandomK(density=0.01) for _ in range(2)], grads):
            assert averaged.mean["w"].isnan().any()


def test_a_density_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"compress.RandomK: density must lie in \(0, 1\]; got 0"):
        RandomK(density=0)
