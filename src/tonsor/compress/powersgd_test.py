import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Comm, ErrorFeedback, PowerSGD
from tonsor.compress.powersgd import orthonormal
from tonsor.compress.workers_test import SIZES, bucket, same, together, workers

MATRICES = {"a": (12, 30), "b": (8, 4, 3, 3)}


def gram_schmidt(p):
    p = p.copy()
    for j in range(p.shape[1]):
        for i in range(j):
            p[:, j] -= (p[:, i] @ p[:, j]) * p[:, i]
        p[:, j] /= np.linalg.norm(p[:, j])
    return p


def paper(matrices, q):
    """Return the mean, what each worker decompresses by itself, and the next Q: Vogels 2019, Algorithm 1."""
    p = gram_schmidt(sum(m @ q for m in matrices) / len(matrices))
    own = [m.T @ p for m in matrices]
    q = sum(own) / len(own)
    return p @ q.T, [p @ mine.T for mine in own], q


@settings(max_examples=20)
@given(seed=st.integers(0, 999), size=st.sampled_from(SIZES), rank=st.sampled_from([1, 2, 4, 5]))
def test_four_steps_with_error_feedback_are_those_of_the_paper(seed, size, rank):
    generator = torch.Generator().manual_seed(seed)
    first = {n: torch.randn(rank, 30 if n == "a" else 36, generator=generator) for n in MATRICES}
    rules = [ErrorFeedback(PowerSGD(rank=rank)) for _ in range(size)]
    for rule in rules:
        rule.compressor.load_state_dict({"rights": first})
    q = {n: first[n].double().numpy().T for n in MATRICES}
    errors = {n: [0.0] * size for n in MATRICES}
    for step in range(4):
        grads = [bucket(seed + 10 * step + r, shapes=MATRICES, dtype=torch.float64) for r in range(size)]
        got = together(rules, grads)
        for n in MATRICES:
            wanted = [g[n].reshape(len(g[n]), -1).numpy() + e for g, e in zip(grads, errors[n], strict=True)]
            mean, sent, q[n] = paper(wanted, q[n])
            errors[n] = [w - s for w, s in zip(wanted, sent, strict=True)]
            np.testing.assert_allclose(got[0].mean[n].reshape(mean.shape), mean, atol=1e-7)
            np.testing.assert_allclose(got[-1].sent[n].reshape(mean.shape), sent[-1], atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_a_matrix_of_the_rank_is_sent_exactly_at_any_scale(scale, dtype):
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (40, 50))
    grads = {"w": (scale * left @ right.t()).to(dtype)}
    rule = PowerSGD(rank=2)
    eps = torch.finfo(dtype).eps
    for _ in range(3):
        mean = rule(grads, Comm()).mean["w"].double()
        assert (mean - grads["w"].double()).norm() < 5 * eps * grads["w"].double().norm()


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_lower_rank_than_asked_for_is_no_trouble(rank):
    left, right = torch.arange(1.0, 21.0), torch.linspace(-1, 1, 30)
    rule = PowerSGD(rank=rank)
    for _ in range(5):
        mean = rule({"w": torch.outer(left, right)}, Comm()).mean["w"]
        torch.testing.assert_close(mean, torch.outer(left, right), atol=1e-4, rtol=1e-5)


def test_the_warm_start_finds_the_best_approximation():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in (30, 24))
    values = 0.7 ** torch.arange(24.0)
    grads = {"w": u[:, :24] * values @ v.t()}
    best = values[2:].norm()
    rule = PowerSGD(rank=2)
    errors = [(rule(grads, Comm()).mean["w"] - grads["w"]).norm() / best for _ in range(25)]
    assert errors[0] > 1.05
    assert errors[-1] < 1.0001


@pytest.mark.parametrize("rank", [1, 2])
def test_zero_gradients_in_between_do_not_lose_the_subspace(rank):
    generator = torch.Generator().manual_seed(0)
    grads = {"w": torch.randn(30, rank, generator=generator) @ torch.randn(rank, 40, generator=generator)}
    rule = PowerSGD(rank=rank)
    rule(grads, Comm())
    for _ in range(3):
        assert not rule({"w": torch.zeros(30, 40)}, Comm()).mean["w"].any()
    torch.testing.assert_close(rule(grads, Comm()).mean["w"], grads["w"], atol=1e-5, rtol=1e-5)


def test_an_overflow_of_the_second_factor_alone_leaves_no_trace():
    rule, huge = PowerSGD(rank=1), torch.full((100, 20), 2e38)
    rule.load_state_dict({"rights": {"w": torch.full((1, 20), 1e-6)}})
    assert not rule({"w": huge}, Comm()).mean["w"].isfinite().any()
    torch.testing.assert_close(rule({"w": huge / 1e30}, Comm()).mean["w"], huge / 1e30)


def test_what_workers_differ_by_does_not_pile_up():
    steps, size = 400, 2
    rules = [ErrorFeedback(PowerSGD(rank=1)) for _ in range(size)]
    bias = bucket(7, shapes={"w": (12, 10)})["w"]
    for step in range(steps):
        noise = [bucket(step * size + rank, shapes={"w": (12, 10)})["w"] for rank in range(size)]
        together(rules, [{"w": noise[0] + bias}, {"w": noise[1] - bias}])
    kept = [rule.state_dict()["residuals"]["w"] for rule in rules]
    apart = (kept[0] - kept[1]).norm() / 2
    assert apart < steps * bias.norm() / 10  # subtracting the mean from each would leave steps * bias


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_two_messages_carry_the_factors_and_what_is_sent_in_full(rank, dtype):
    comms = workers(2)
    grads = bucket(0, dtype=dtype)
    together([PowerSGD(rank=rank), PowerSGD(rank=rank)], [grads, grads], comms)
    want = 0
    for grad in grads.values():
        matrix = grad.ndim > 1 and grad.numel()
        rows, columns = (grad.shape[0], grad[0].numel()) if matrix else (0, 0)
        item = max(4, grad.element_size())  # factors, and with them all that travels along, are float32
        factors = item * min(rank, rows, columns) * (rows + columns)
        want += factors if 0 < factors < grad.nbytes else item * grad.numel()
    assert [(comm.messages, comm.bytes_sent) for comm in comms] == [(2, want)] * 2


def test_the_first_factor_depends_on_seed_and_name_alone():
    def first(seed, name):
        rule = PowerSGD(seed=seed)
        rule({name: torch.full((20, 30), torch.nan)}, Comm())  # a bad step keeps the factor
        return rule.state_dict()["rights"]

    assert same(first(0, "w"), first(0, "w"))
    assert not torch.equal(first(0, "w")["w"], first(1, "w")["w"])
    assert not torch.equal(first(0, "w")["w"], first(0, "v")["v"])


@settings(max_examples=30)
@given(
    rows=st.integers(3, 40),
    kinds=st.lists(st.sampled_from(["random", "zero", "copy", "tiny", "huge"]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_columns_are_made_orthonormal_whatever_they_are(rows, kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, generator=generator)
    scale = {"zero": 0.0, "tiny": 1e-30, "huge": 1e15}
    columns = [
        base if kind == "copy" else scale.get(kind, 1.0) * torch.randn(rows, generator=generator)
        for kind in kinds
    ]
    q = orthonormal(torch.stack(columns, 1))
    torch.testing.assert_close(q.t() @ q, torch.eye(len(kinds)), atol=1e-5, rtol=0)


def test_a_rank_below_one_and_a_state_of_another_rank_are_refused():
    with pytest.raises(ValueError, match="rank must be at least 1; got 0"):
        PowerSGD(rank=0)
    two, four = PowerSGD(rank=2), PowerSGD(rank=4)
    two(bucket(0), Comm())
    four.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match=r"kept for 'conv' has shape \(2, 36\), but rank=4"):
        four(bucket(0), Comm())
