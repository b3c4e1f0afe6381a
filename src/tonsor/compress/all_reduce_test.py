from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import (
    QSGD,
    Comm,
    ErrorFeedback,
    MajorityVote,
    Natural,
    bf16,
    e4m3,
    e5m2,
    fp16,
    int4,
    int8,
    sign,
    vector,
)
from tonsor.compress.vector import spans
from tonsor.compress.workers_test import SIZES, bucket, same, together, workers

# "large" is shared by all workers, "fc" has one owner; their codes travel side by side
MATRICES = {"large": (130, 123), "conv": (6, 4, 3, 3), "fc": (30, 50), "row": (1, 300)}


def grid(levels):
    """Return the rounding of a block to so many whole steps on each side."""

    def code(x):
        step = np.abs(x).max() / levels
        return np.rint(x / step) * step

    return code


def short(bits, lowest, top):
    """Return the rounding to floats of so many bits, whose least normal number is 2 ** lowest."""

    def code(x):
        move = 2.0 ** (top - np.floor(np.log2(np.abs(x).max())))
        _, exponents = np.frexp(x * move)
        unit = 2.0 ** (np.maximum(exponents, lowest + 1) - bits)
        return np.rint(x * move / unit) * unit / move

    return code


def mean_sign(x):
    return np.abs(x).mean() * np.where(x >= 0, 1, -1)


CODES = {
    "fp16": (fp16, short(11, -14, 14), 256),
    "bf16": (bf16, short(8, -126, 0), 8),
    "e4m3": (e4m3, short(4, -6, 7), 256),
    "e5m2": (e5m2, short(3, -14, 14), 256),
    "int8": (int8, grid(127), 256),
    "int4": (int4, grid(7), 256),
    "sign": (sign, mean_sign, 1024),
}
every_code = pytest.mark.parametrize("name", CODES)


def by_blocks(code, x, block):
    return np.concatenate([code(x[start : start + block]) for start in range(0, len(x), block)])


def oracle(name, grads):
    """Return the mean and what each gave, in float64: an owner sums codes, and its own share as it is."""
    _, code, block = CODES[name]
    size, flat = len(grads), {n: [g[n].double().numpy().reshape(-1) for g in grads] for n in MATRICES}
    means, given = {}, [{} for _ in grads]
    for n, xs in flat.items():
        means[n], gave = np.empty_like(xs[0]), [by_blocks(code, x, block) for x in xs]
        for owner, (start, count) in enumerate(spans(n, len(xs[0]), block, size)):
            share = slice(start, start + count)
            if count:
                gave[owner][share] = xs[owner][share]
                middle = sum(each[share] for each in gave) / size
                means[n][share] = by_blocks(code, middle, block)
                gave[owner][share] += size * (means[n][share] - middle)
        for rank in range(size):
            given[rank][n] = gave[rank]
    return means, given


@every_code
@settings(max_examples=8)
@given(seed=st.integers(0, 999), size=st.sampled_from(SIZES), scale=st.sampled_from([1e-25, 1.0, 1e25]))
def test_codes_are_averaged_as_the_definition_says(name, seed, size, scale):
    grads = [bucket(seed + rank, shapes=MATRICES, scale=scale) for rank in range(size)]
    got = together([CODES[name][0]] * size, grads)
    want, given = oracle(name, grads)
    for n in MATRICES:
        for mine, theirs in ((got[0].mean, want), (got[-1].sent, given[-1])):
            near = np.isclose(mine[n].numpy().reshape(-1), theirs[n], rtol=1e-4, atol=1e-5 * scale)
            # with a chance of 2 ** -12 a float32 mean lies in the middle of two float16: either is right
            assert (~near).sum() <= 3 + len(near) / 1000


@pytest.mark.parametrize("size", [1, 3, 5])
@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_a_vote_has_the_sign_of_most_workers(size, seed):
    grads = [bucket(seed + rank, shapes={"w": (64, 90)}) for rank in range(size)]
    got = together([MajorityVote() for _ in range(size)], grads)
    xs = np.stack([g["w"].double().numpy().reshape(-1) for g in grads])
    size_of = by_blocks(lambda x: np.full_like(x, x.mean()), np.abs(xs).mean(0), 1024)
    want = np.sign(np.sign(xs).sum(0)) * size_of
    np.testing.assert_allclose(got[0].mean["w"].reshape(-1), want, rtol=1e-5)


def test_level_votes_are_tossed_fairly_and_anew_and_a_block_of_zeros_does_not_vote():
    up, rules = {"w": torch.ones(64, 64)}, [MajorityVote() for _ in range(2)]
    first, second = (together(rules, [up, {"w": -up["w"]}])[0].mean["w"] for _ in range(2))
    for toss in (first, second, first * second):
        assert toss.abs().eq(1).all()
        assert toss.sum().abs() < 5 * 64  # five standard deviations of 4096 coins
    rests = {"w": torch.zeros(64, 64)}
    assert together([MajorityVote() for _ in range(3)], [rests, rests, up])[0].mean["w"].gt(0).all()


@settings(max_examples=50)
@given(
    name=st.text(max_size=3),
    count=st.integers(1, 60000),
    block=st.sampled_from([1, 7, 256, 1024]),
    size=st.integers(1, 6),
)
def test_shares_are_whole_blocks_that_cover_a_gradient_once(name, count, block, size):
    shares = spans(name, count, block, size)
    assert len(shares) == size
    owned = sorted(share for share in shares if share[1])
    assert [start for start, _ in owned] == list(np.cumsum([0, *(length for _, length in owned)])[:-1])
    assert sum(length for _, length in owned) == count
    assert all(start % block == 0 for start, _ in owned)
    if count >= 1024 * size:
        assert max(length for _, length in shares) <= count / size + block


@every_code
def test_gradients_have_the_codes_they_have_alone(name, monkeypatch):
    grads = [bucket(rank, shapes=MATRICES) for rank in range(3)]
    joined = together([CODES[name][0]] * 3, grads)
    monkeypatch.setattr(vector, "JOINED", 0)
    for one, other in zip(joined, together([CODES[name][0]] * 3, grads), strict=True):
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(one.sent, other.sent, rtol=1e-6, atol=1e-6)


def test_many_small_gradients_are_spread_over_the_workers():
    owners = [
        [bool(length) for _, length in spans(f"layer{i}.weight", 500, 256, 4)].index(True) for i in range(200)
    ]
    assert all(30 < owners.count(rank) < 70 for rank in range(4))


@every_code
@pytest.mark.parametrize("size", [2, 3])
def test_what_is_sent_is_counted_and_does_not_grow_with_the_workers(name, size):
    comms = workers(size)
    together([CODES[name][0]] * size, [{"w": torch.ones(96, 512)}] * size, comms)
    bits = {"fp16": 16 + 32 / 256, "bf16": 16, "int4": 4 + 32 / 256, "sign": 1 + 32 / 1024}
    code = 96 * 512 * bits.get(name, 8 + 32 / 256) / 8
    assert [comm.messages for comm in comms] == [2] * size
    assert [comm.bytes_sent for comm in comms] == [code] * size


def test_what_one_worker_owns_alone_is_sent_by_it_alone():
    comms = workers(3)
    together([CODES["int8"][0]] * 3, [{"w": torch.ones(16, 16)}] * 3, comms)
    code = 256 + 4
    assert sorted(comm.bytes_sent for comm in comms) == [code, code, 2 * code]


@pytest.mark.parametrize(
    "make", [lambda: int8, lambda: sign, QSGD, MajorityVote], ids=["int8", "sign", "QSGD", "vote"]
)
def test_buckets_do_not_matter_to_many_workers_either(make):
    wholes, parts = ([make() for _ in range(3)] for _ in range(2))
    for step in range(2):
        grads = [bucket(10 * step + rank, shapes=MATRICES) for rank in range(3)]
        want = together(wholes, grads)
        for n in sorted(MATRICES, reverse=step == 1):
            got = together(parts, [{n: g[n]} for g in grads])
            for mine, theirs in zip(got, want, strict=True):
                assert torch.equal(mine.mean[n], theirs.mean[n])
                assert torch.equal(mine.sent[n], theirs.sent[n])


@pytest.mark.parametrize(
    "rule", [fp16, bf16, e5m2, int8, Natural()], ids=["fp16", "bf16", "e5m2", "int8", "Natural"]
)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0.5, -(2.0**-25), 2.0**100, 2.0**-100])
def test_a_constant_comes_back_as_it_went_in(rule, size, value):
    grads = {"w": torch.full((40, 50), value)}
    mean = together([rule] * size, [grads] * size)[0].mean["w"]
    torch.testing.assert_close(mean, grads["w"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", [int8, int4, sign], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("tiny", [1e-36, 1e-40, 0.0])
def test_a_block_too_small_for_its_scale_does_no_harm(rule, tiny):
    grads = {"w": torch.cat([torch.full((1, 2048), tiny), torch.ones(1, 2048)])}
    mean = rule(grads, Comm()).mean["w"]
    assert mean[0].abs().max() <= 1e-35
    torch.testing.assert_close(mean[1], grads["w"][1])


@pytest.mark.parametrize("rule", [int4, sign], ids=lambda rule: rule.__name__)
def test_the_second_loss_does_not_pile_up_with_error_feedback(rule):
    def kept(size, steps=100):
        rules = [ErrorFeedback(rule) for _ in range(size)]
        for step in range(steps):
            together(rules, [bucket(size * step + rank, shapes={"w": (64, 96)}) for rank in range(size)])
        return [r.state_dict()["residuals"]["w"].norm() for r in rules]

    assert max(kept(3)) < 2 * kept(1)[0]  # alone there is one loss


def test_a_share_that_is_not_finite_is_seen_by_all_in_every_code():
    for rule in [*(each[0] for each in CODES.values()), MajorityVote(), Natural()]:
        for bad in (torch.nan, torch.inf, -torch.inf):
            for place in (0, 15989):  # in the first worker's share, and in the last one's
                grads = [bucket(rank, shapes={"large": (130, 123)}) for rank in range(2)]
                grads[1]["large"].view(-1)[place] = bad
                first, second = together([rule, rule], grads)
                assert not first.mean["large"].isfinite().all()
                assert same(first.mean, second.mean)


@pytest.mark.parametrize("rule", [fp16, e4m3, e5m2, int8, int4, sign], ids=lambda rule: rule.__name__)
def test_a_block_of_no_elements_is_refused(rule):
    with pytest.raises(
        ValueError, match=rf"compress.{rule.__name__}: block must be at least 1 element; got 0"
    ):
        partial(rule, block=0)({"w": torch.ones(2, 2)}, Comm())
