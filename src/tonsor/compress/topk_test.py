import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Comm, ErrorFeedback, TopK
from tonsor.compress.message import pack_sparse
from tonsor.compress.sparse import join
from tonsor.compress.topk import count_of, take_largest
from tonsor.compress.workers_test import SIZES, bucket, together, workers

MATRICES = {"a": (12, 30), "b": (6, 4, 3, 3)}


def oracle(grads, density):
    """Return the mean of the top-k of each worker, in float64, by sorting."""
    total = np.zeros(grads[0].shape)
    for grad in grads:
        flat = grad.double().numpy().reshape(-1)
        count = max(1, round(density * flat.size))
        top = np.argsort(-np.abs(flat), kind="stable")[:count]
        kept = np.zeros_like(flat)
        kept[top] = flat[top]
        total += kept.reshape(grad.shape)
    return total / len(grads)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    size=st.sampled_from(SIZES),
    density=st.sampled_from([0.001, 0.01, 0.1, 0.3]),
)
def test_the_mean_is_that_of_the_largest_elements(seed, size, density):
    grads = [bucket(seed + rank, shapes=MATRICES) for rank in range(size)]
    got = together([TopK(density=density)] * size, grads)
    for name in MATRICES:
        want = oracle([g[name] for g in grads], density)
        np.testing.assert_allclose(got[0].mean[name].numpy(), want, atol=1e-6)
        np.testing.assert_array_equal(got[-1].sent[name].numpy(), oracle([grads[-1][name]], density))


@pytest.mark.parametrize("value", [0.5, -0.5])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.4])
def test_equal_magnitudes_are_sent_in_the_exact_number(value, density):
    grads = {"w": torch.full((100, 40), value)}
    grads["w"][::2] *= -1
    sent = TopK(density=density)(grads, Comm()).sent["w"]
    assert sent.count_nonzero() == 4000 * density
    assert torch.equal(sent.view(-1)[: int(4000 * density)], grads["w"].view(-1)[: int(4000 * density)])


def test_the_result_does_not_depend_on_the_types_that_travel_together():
    grads = {"a": bucket(0)["wide"], "h": bucket(1)["wide"].half(), "d": bucket(2)["wide"].double()}
    mixed = TopK(density=0.05)(grads, Comm()).mean
    for name, grad in grads.items():
        assert torch.equal(mixed[name], TopK(density=0.05)({name: grad}, Comm()).mean[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("density", [0.01, 0.3, 0.49, 0.8, 1.0])
def test_what_is_sent_is_counted_and_never_more_than_the_gradient(dtype, density, bits):
    grads = bucket(0, dtype=dtype)
    comms = workers(2)
    got = together([TopK(density=density, bits=bits)] * 2, [grads, grads], comms)
    whole = {name for name, grad in grads.items() if torch.equal(got[0].sent[name], grad)}
    parts = [take_largest(grad, count_of(grad, density)) for grad in grads.values()]
    alone = [part for name, part in zip(grads, parts, strict=True) if name not in whole]
    message = pack_sparse([join(alone)], bits=bits, is_fitted=False).numel() if alone else 0
    want = message + sum(grads[name].nbytes for name in whole)
    assert {"bias", "scale", "empty"} <= whole
    assert density > 0.3 or whole == {"bias", "scale", "empty"}
    assert comms[0].bytes_sent == comms[1].bytes_sent == want
    assert comms[0].bytes_sent <= sum(grad.nbytes for grad in grads.values())
    assert comms[0].messages == bool(alone) + bool(whole)


@pytest.mark.parametrize("size", SIZES)
def test_where_the_gather_would_cost_more_than_a_mean_all_is_sent(size):
    grads = bucket(0, shapes={"w": (100, 200)})
    dense_cost = 2 * grads["w"].nbytes  # of a ring over W workers, times (W - 1) / W
    for density in (0.05, 0.2, 0.4, 0.7):
        comms = workers(size)
        averaged = together([TopK(density=density)] * size, [grads] * size, comms)[0]
        is_alone = not torch.equal(averaged.sent["w"], grads["w"])
        assert is_alone == (density < 1.6 / max(size, 2))
        assert comms[0].bytes_sent * (size if is_alone else 2) <= dense_cost


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_coded_values_are_as_near_as_their_bits_allow(bits):
    grads = bucket(0, shapes={"w": (300, 200)})
    full, coded = (TopK(density=0.05, bits=b)(grads, Comm()).sent["w"] for b in (None, bits))
    assert torch.equal(full != 0, coded != 0)
    error = (coded - full).norm() / full.norm()
    assert error < {2: 0.12, 3: 0.07, 4: 0.04, 8: 0.003, 16: 0.0005}[bits]


def test_error_feedback_brings_every_element_in_the_end():
    grads = bucket(0, shapes=MATRICES)
    rule = ErrorFeedback(TopK(density=0.05))
    total = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    for _ in range(400):
        for name, mean in rule(grads, Comm()).mean.items():
            total[name] += mean
    for name, grad in grads.items():
        torch.testing.assert_close(total[name] / 400, grad, atol=0.1, rtol=0)
        bare = TopK(density=0.05)(grads, Comm()).mean[name]
        assert (bare - grad).abs().max() > 0.5


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\]; got"):
        TopK(density=density)


@pytest.mark.parametrize("bits", [0, 1, 9, 32])
def test_a_number_of_bits_that_no_code_has_is_refused(bits):
    with pytest.raises(ValueError, match=r"bits must be one of 2, 3, 4, 5, 6, 7, 8, 16, or None; got"):
        TopK(bits=bits)
