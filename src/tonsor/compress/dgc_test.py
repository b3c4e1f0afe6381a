import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import DGC, Comm
from tonsor.compress.workers_test import SIZES, bucket, same, together

MATRIX = {"w": (12, 30)}


class Paper:
    """Algorithms 1 and 4 of the paper on W workers, in float64; gradients are divided by W before the sum."""

    def __init__(self, size, momentum, *, is_nesterov, max_norm):
        self.size, self.momentum, self.is_nesterov, self.max_norm = size, momentum, is_nesterov, max_norm
        self.u, self.v = [0.0] * size, [0.0] * size

    def step(self, grads, density):
        total = 0.0
        for worker, grad in enumerate(grads):
            share = grad.double().numpy().reshape(-1) / self.size
            norm = np.linalg.norm(share)
            if self.max_norm is not None and norm > self.max_norm * self.size**-0.5:
                share = share * self.max_norm * self.size**-0.5 / norm
            if self.is_nesterov:
                self.u[worker] = self.momentum * (self.u[worker] + share)
                self.v[worker] = self.v[worker] + self.u[worker] + share
            else:
                self.u[worker] = self.momentum * self.u[worker] + share
                self.v[worker] = self.v[worker] + self.u[worker]
            count = max(1, round(density * share.size))
            top = np.argsort(-np.abs(self.v[worker]), kind="stable")[:count]
            sent = np.zeros_like(share)
            sent[top] = self.v[worker][top]
            self.v[worker][top] = 0
            self.u[worker][top] = 0
            total = total + sent
        return total


@settings(max_examples=25)
@given(
    seed=st.integers(0, 999),
    size=st.sampled_from(SIZES),
    density=st.sampled_from([0.01, 0.1]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    is_nesterov=st.booleans(),
    max_norm=st.sampled_from([None, 0.5, 20.0]),
)
def test_the_mean_is_that_of_the_paper(seed, size, density, momentum, is_nesterov, max_norm):
    tuned = {"momentum": momentum, "is_nesterov": is_nesterov, "max_norm": max_norm}
    rules = [DGC(density=density, **tuned) for _ in range(size)]
    paper = Paper(size, **tuned)
    for step in range(4):
        grads = [bucket(seed + 100 * step + rank, shapes=MATRIX) for rank in range(size)]
        want = paper.step([each["w"] for each in grads], density)
        for averaged in together(rules, grads):
            np.testing.assert_allclose(averaged.mean["w"].numpy().reshape(-1), want, atol=1e-5)


@pytest.mark.parametrize("is_nesterov", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_what_is_sent_in_full_has_the_momentum_of_the_optimizer(size, is_nesterov):
    rules = [DGC(momentum=0.8, is_nesterov=is_nesterov) for _ in range(size)]
    weight = torch.nn.Parameter(torch.zeros(7))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.8, nesterov=is_nesterov)
    total = torch.zeros(7)
    for step in range(5):
        grads = [bucket(10 * step + rank, shapes={"bias": (7,)}) for rank in range(size)]
        total -= together(rules, grads)[0].mean["bias"]
        weight.grad = torch.stack([each["bias"] for each in grads]).mean(0)
        optimizer.step()
        torch.testing.assert_close(total, weight.detach())


def test_all_is_sent_in_the_end_and_momentum_is_cut_where_it_is_sent():
    rule = DGC(density=0.1, momentum=0.0)
    grads = bucket(0, shapes=MATRIX)
    total = sum(rule(grads, Comm()).mean["w"] for _ in range(30))
    torch.testing.assert_close(
        total + rule.state_dict()["residuals"]["w"], 30 * grads["w"], atol=1e-4, rtol=1e-4
    )
    rule = DGC(density=0.1)
    sent = rule(grads, Comm()).sent["w"]
    velocity = rule.state_dict()["velocities"]["w"]
    assert torch.equal(velocity != 0, sent == 0)


def test_in_the_warm_up_the_density_falls_by_stages():
    rule = DGC(density=0.01, stage_steps=2)
    grads = bucket(0, shapes={"w": (40, 100)})
    counts = [rule(grads, Comm()).sent["w"].count_nonzero().item() for _ in range(10)]
    assert counts == [1000, 1000, 250, 250, 62, 62, 40, 40, 40, 40]


@pytest.mark.parametrize("tuned", [{"stage_steps": 2, "is_nesterov": True}, {"bits": 4, "max_norm": 1.0}])
def test_a_run_that_is_resumed_in_the_warm_up_goes_on_bit_for_bit(tuned):
    went_on, resumed = DGC(density=0.02, **tuned), DGC(density=0.02, **tuned)
    for step in range(3):
        went_on(bucket(step), Comm())
    resumed.load_state_dict(went_on.state_dict())
    for step in range(3, 8):
        assert same(went_on(bucket(step), Comm()).mean, resumed(bucket(step), Comm()).mean)


def test_a_gradient_of_zeros_keeps_what_is_accumulated_and_others_go_on():
    rule = DGC(density=0.1)
    grads = bucket(0)
    rule(grads, Comm())
    before = rule.state_dict()
    averaged = rule({**grads, "wide": torch.zeros_like(grads["wide"])}, Comm())
    after = rule.state_dict()
    assert not averaged.mean["wide"].any()
    for part in ("velocities", "residuals"):
        assert torch.equal(after[part]["wide"], before[part]["wide"])
        assert not torch.equal(after[part]["conv"], before[part]["conv"])


def test_what_coding_loses_is_kept():
    coded = DGC(density=0.1, momentum=0.0, bits=2)
    grads = bucket(0, shapes=MATRIX)
    sent = coded(grads, Comm()).sent["w"]
    torch.testing.assert_close(coded.state_dict()["residuals"]["w"], grads["w"] - sent)
    assert coded.state_dict()["residuals"]["w"][sent != 0].abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    rule = DGC(density=0.1)
    rule(bucket(0, dtype=dtype), Comm())
    for part in ("velocities", "residuals"):
        assert {t.dtype for t in rule.state_dict()[part].values()} == {torch.float32}


@pytest.mark.parametrize(
    ("tuned", "says"),
    [
        ({"density": 0}, r"density must lie in \(0, 1\]; got 0"),
        ({"momentum": 1}, r"momentum must lie in \[0, 1\); got 1"),
        ({"max_norm": 0}, "max_norm must be above 0, or None; got 0"),
        ({"stage_steps": -1}, "stage_steps must not be negative; got -1"),
        ({"bits": 9}, "bits must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(tuned, says):
    with pytest.raises(ValueError, match=says):
        DGC(**tuned)


def test_a_state_of_another_shape_is_refused():
    rule = DGC()
    rule({"w": torch.ones(2, 3)}, Comm())
    with pytest.raises(ValueError, match=r"'w' has shape \(2, 3\), its gradient \(3, 2\)"):
        rule({"w": torch.ones(3, 2)}, Comm())
