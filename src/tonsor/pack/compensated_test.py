from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.pack import SHARINGS, gptq, kmeans, uniform


def correlated(features, seed=0, samples=200):
    drawn = torch.Generator().manual_seed(seed)
    mixed = torch.randn(features, features, generator=drawn, dtype=torch.float64)
    x = torch.randn(samples, features, generator=drawn, dtype=torch.float64) @ mixed
    return x.T @ x / samples


def error(weight, values, gram):
    lost = (weight - values).double().flatten(1)
    return float(((lost @ gram) * lost).sum())


def by_hand(weight, table, gram, damping):
    """Freeze one column after the other; the inverse of what is left is taken anew each time."""
    weight = weight.double().numpy().copy()
    stays, out = weight != 0, np.zeros_like(weight)
    damped = gram.numpy() + damping * np.mean(np.diag(gram)) * np.eye(len(gram))
    free = list(np.argsort(-np.diag(gram), kind="stable"))
    while free:
        column = free[0]
        inverse = np.linalg.inv(damped[np.ix_(free, free)])
        for row, levels in enumerate(table):
            nearest = levels[np.argmin(np.abs(levels - weight[row, column]))] if stays[row, column] else 0.0
            lost = weight[row, column] - nearest
            weight[row, free] -= lost / inverse[0, 0] * inverse[0]
            out[row, column] = nearest
        free = free[1:]
    return torch.from_numpy(out)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 99),
    shape=st.sampled_from([(1, 1), (3, 7), (5, 12)]),
    sharing=st.sampled_from([kmeans, uniform, partial(kmeans, groups=2)]),
    block=st.sampled_from([1, 4, 128]),
    bits=st.sampled_from([2, 4]),
)
def test_codes_are_those_of_the_optimal_brain_surgeon(seed, shape, sharing, block, bits):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight[:, ::5] = 0
    weight[0, 0] = 1.5
    gram = correlated(shape[1], seed)
    first = sharing(weight, bits=bits)
    got = gptq(weight, gram, bits=bits, sharing=sharing, block=block)
    assert torch.equal(got.learned, first.learned)
    rows = torch.arange(shape[0]) * first.groups // shape[0]
    want = by_hand(weight, first.table().double()[rows].numpy(), gram, 0.01)
    torch.testing.assert_close(got.values().double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sharing", SHARINGS.values(), ids=SHARINGS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_output_is_nearer_than_with_the_nearest_values(sharing, bits):
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    gram = correlated(64)
    for share_kept, ratio in ((1.0, 0.7), (0.6, 0.9)):  # what is pruned cannot make up for anything
        kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < share_kept
        pruned = weight * kept
        plain, moved = sharing(pruned, bits=bits), gptq(pruned, gram, bits=bits, sharing=sharing)
        assert error(pruned, moved.values(), gram) < ratio * error(pruned, plain.values(), gram)
        assert not moved.values()[~kept].any()


def test_inputs_that_have_nothing_to_do_with_one_another_leave_the_nearest_values():
    weight = torch.randn(9, 20, generator=torch.Generator().manual_seed(2))
    gram = torch.diag(torch.rand(20, generator=torch.Generator().manual_seed(3)))
    gram[4, 4] = 0  # an input that is never seen
    assert torch.equal(gptq(weight, gram, sharing=uniform).values(), uniform(weight, bits=4).values())


def test_the_groups_of_a_convolution_read_inputs_of_their_own():
    weight = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(4))
    grams = torch.stack([correlated(18, seed) for seed in (0, 1)])
    whole = gptq(weight, grams, sharing=uniform).values()
    for group, part in enumerate(weight.split(3)):
        alone = gptq(part, grams[group], sharing=uniform).values()
        assert torch.equal(whole[3 * group : 3 * group + 3], alone)


@pytest.mark.parametrize("shape", [(3, 3), (5, 4), (2, 4, 4), (4,)])
def test_a_gram_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"pack.gptq: for a weight \(3, 4\) the gram must be \(4, 4\)"):
        gptq(torch.ones(3, 4), torch.zeros(shape))


def test_a_gram_without_an_inverse_is_refused():
    with pytest.raises(ValueError, match=r"raise damping=0\.0"):
        gptq(torch.randn(3, 4), torch.ones(4, 4), damping=0.0)
