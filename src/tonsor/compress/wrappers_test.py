from functools import partial

import numpy as np
import pytest
import torch

from tonsor.compress import (
    EF21,
    Comm,
    ErrorBudget,
    ErrorFeedback,
    LocalClip,
    OnlyLarge,
    PerLayer,
    PowerSGD,
    TopK,
    Warmup,
    dense,
)
from tonsor.compress.workers_test import SHAPES, bucket, same, together
from tonsor.schedule import exponential, linear


def top(matrix, count):
    """Return the matrix with all but its `count` largest elements zero."""
    keep = np.argsort(-np.abs(matrix).ravel(), kind="stable")[:count]
    kept = np.zeros(matrix.size)
    kept[keep] = matrix.ravel()[keep]
    return kept.reshape(matrix.shape)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_ef21_is_the_papers_recursion(momentum):
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(6, 3, 8, 10))  # step, worker, rows, columns
    rules = [EF21(TopK(density=0.1), momentum=momentum) for _ in range(3)]
    own, smooth = np.zeros((3, 8, 10)), grads[0].copy()
    for step, given in enumerate(grads):
        got = together(rules, [{"w": torch.tensor(grad)} for grad in given])
        if step:
            smooth = momentum * smooth + (1 - momentum) * given
        own = own + np.stack([top(v - h, 8) for v, h in zip(smooth, own, strict=True)])
        for averaged, h in zip(got, own, strict=True):
            np.testing.assert_allclose(averaged.mean["w"].numpy(), own.mean(0), atol=1e-12)
            np.testing.assert_allclose(averaged.sent["w"].numpy(), h, atol=1e-12)


def test_ef21_comes_to_the_exact_mean_of_gradients_that_stay_where_feedback_keeps_on_swinging():
    grads = [bucket(rank, shapes={"w": (8, 10)}) for rank in range(2)]
    mean = (grads[0]["w"] + grads[1]["w"]) / 2
    errors = {}
    for wrapper in (EF21, ErrorFeedback):
        rules = [wrapper(TopK(density=0.1)) for _ in range(2)]
        for _ in range(12):
            got = together(rules, grads)
        errors[wrapper] = (got[0].mean["w"] - mean).norm() / mean.norm()
    assert errors[EF21] < 1e-6
    assert errors[ErrorFeedback] > 1


def test_a_first_step_that_overflows_leaves_no_average_behind():
    rule, other = (EF21(dense, momentum=0.9) for _ in range(2))
    rule({"w": torch.tensor([torch.inf])}, Comm())
    for each in (rule, other):
        each({"w": torch.ones(1)}, Comm())
    assert rule({"w": torch.zeros(1)}, Comm()).mean == other({"w": torch.zeros(1)}, Comm()).mean


def test_a_warm_up_follows_the_schedule_step_by_step():
    rule = Warmup(
        ErrorFeedback(TopK()),
        steps=2,
        sparsity=partial(exponential, initial=0.75, final=0.9375, stop=2),
    )
    counts = []
    for _ in range(6):
        mean = rule({"w": torch.arange(1.0, 65).view(8, 8)}, Comm()).mean["w"]
        counts.append(mean.count_nonzero().item())
    assert counts == [64, 64, 16, 8, 4, 4]


def test_a_step_that_overflows_does_not_count_as_warm_up():
    rules = [Warmup(TopK(density=0.1), steps=2) for _ in range(2)]
    for step in range(4):
        grads = [bucket(step), bucket(50 + step)]
        if step == 1:
            grads[0]["wide"][0, 0] = torch.inf
        got = together(rules, grads)
        whole = [averaged.sent["wide"].count_nonzero() == 360 for averaged in got]
        assert whole == [step < 3] * 2  # steps 0 and 2 were good


def test_a_schedule_needs_a_density_and_must_stay_in_range():
    with pytest.raises(ValueError, match=r"PowerSGD\(rank=4, seed=0\) has none"):
        Warmup(PowerSGD(), sparsity=partial(linear, stop=3))
    with pytest.raises(ValueError, match="at step 3"):
        rule = Warmup(TopK(), steps=0, sparsity=partial(linear, stop=3))
        for _ in range(4):
            rule(bucket(0), Comm())
    with pytest.raises(ValueError, match="steps must be at least 0; got -1"):
        Warmup(TopK(), steps=-1)


def test_small_tensors_go_whole_and_a_bucket_of_them_is_one_message():
    seen = []
    rule = OnlyLarge(lambda grads, comm: seen.append(list(grads)) or dense(grads, comm), min_numel=300)
    assert list(rule(bucket(0), Comm()).mean) == ["conv", "bias", "scale", "empty", "one", "wide"]
    rule({"bias": torch.ones(400)}, Comm())
    assert seen == [["wide"]]


def test_each_layer_goes_by_its_first_pattern():
    rule = PerLayer(dense, layers={"*.key": TopK(density=0.1), "block.?.*": TopK(density=0.4)})
    grads = {name: torch.arange(1.0, 11).view(2, 5) for name in ("block.0.key", "block.1.value", "head")}
    mean = rule(grads, Comm()).mean
    assert {name: t.count_nonzero().item() for name, t in mean.items()} == {
        "block.0.key": 1,
        "block.1.value": 4,
        "head": 10,
    }


def test_a_pattern_that_fits_nothing_is_told_when_all_names_are_known():
    rule = PerLayer(dense, layers={"encodr.*": TopK()})
    rule({"encoder.weight": torch.ones(2)}, Comm())
    rule({"head.weight": torch.ones(2)}, Comm())  # another bucket of the first step
    with pytest.raises(ValueError, match=r"'encodr\.\*'; did you mean 'encoder.weight'\? Known: enc.*head"):
        rule({"head.weight": torch.ones(2)}, Comm())
    with pytest.raises(ValueError, match=r"other patterns: encodr\.\* on one side"):
        PerLayer(dense).load_state_dict(rule.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_each_worker_bounds_the_norm_of_its_share(dtype):
    grads = [bucket(rank, dtype=dtype, scale=0.2 + rank) for rank in range(4)]
    got = together([LocalClip(dense, max_norm=2.0) for _ in range(4)], grads)
    for n in SHAPES:
        shares = []
        for grad in grads:
            share = grad[n].double().numpy() / 4
            shares.append(share * min(1, 2 * 4**-0.5 / max(np.linalg.norm(share), 1e-30)))
        np.testing.assert_allclose(got[0].mean[n].double().numpy(), sum(shares), atol=2e-3, rtol=2e-3)


def test_what_is_clipped_off_is_lost_or_sent_later_as_the_order_says():
    grads = {"w": torch.tensor([3.0, 4.0])}
    lost, kept = LocalClip(ErrorFeedback(dense)), ErrorFeedback(LocalClip(dense))
    for rule, later in ((lost, 0.0), (kept, 0.8)):
        rule(grads, Comm())
        small = {"w": torch.tensor([1e-9, 0.0])}
        torch.testing.assert_close(rule(small, Comm()).mean["w"][1], torch.tensor(later))
    with pytest.raises(ValueError, match="max_norm must be above 0; got 0"):
        LocalClip(dense, max_norm=0)


def spectrum(seed, decay):
    """Return a matrix whose k-th singular value is decay to the k."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q for _ in range(2))
    return left * decay ** torch.arange(64) @ right.t()


@pytest.mark.parametrize("inner", [partial(TopK, density=1.0), partial(PowerSGD, rank=1)])
def test_each_layer_gets_the_coarsest_level_that_keeps_the_error(inner):
    grads = [{"steep": spectrum(r, 0.2).pow(3), "flat": spectrum(9 + r, 0.9)} for r in range(2)]
    rules = [ErrorBudget(inner(), error=0.4, patience=5) for _ in range(2)]
    for _ in range(20):
        together(rules, grads)
    assert rules[0].settings == rules[1].settings
    assert rules[0].settings["steep"] < rules[0].settings["flat"]
    errors = []
    for _ in range(12):
        sent = [averaged.sent for averaged in together(rules, grads)]
        for name, told in rules[0].errors.items():
            lost = sum((g[name] - s[name]).norm().item() ** 2 for g, s in zip(grads, sent, strict=True))
            whole = sum(g[name].norm().item() ** 2 for g in grads)
            assert told == pytest.approx((lost / whole) ** 0.5, rel=1e-4, abs=1e-6)
            errors.append(told <= 0.4)
    assert sum(errors) >= 18  # of 24; the others were trials of the next coarser level


def test_a_budget_steps_through_rules_that_are_ever_finer():
    coarse, fine = TopK(density=0.01), TopK(density=0.4)
    rule = ErrorBudget(coarse, error=0.6, finer=[fine, dense])
    grads = {"easy": torch.zeros(20, 20), "medium": bucket(0)["wide"], "hard": torch.ones(20, 20)}
    grads["easy"][3, 4] = 1.0
    for _ in range(5):
        rule(grads, Comm())
    assert rule.settings == {"easy": 0, "medium": 1, "hard": 2}


def test_a_budget_is_not_moved_by_an_overflow_and_goes_on_after_a_resume():
    rules = [ErrorBudget(TopK(density=0.1), error=0.3) for _ in range(2)]
    together(rules, [bucket(0), bucket(1)])
    before = rules[0].settings
    bad = {n: torch.full_like(t, torch.inf) for n, t in bucket(0).items()}
    together(rules, [bad, bucket(1)])
    assert [rule.settings for rule in rules] == [before] * 2
    again = [ErrorBudget(TopK(density=0.1), error=0.3) for _ in range(2)]
    for new, old in zip(again, rules, strict=True):
        new.load_state_dict(old.state_dict())
    grads = [bucket(2), bucket(3)]
    assert same(together(again, grads)[0].mean, together(rules, grads)[0].mean)


def test_mistakes_about_a_budget_say_what_to_do():
    with pytest.raises(ValueError, match=r"write it inside, as ErrorFeedback\(ErrorBudget"):
        ErrorBudget(ErrorFeedback(TopK()))
    with pytest.raises(ValueError, match=r"error must lie in \(0, 1\); got 1"):
        ErrorBudget(TopK(), error=1)
    with pytest.raises(ValueError, match="momentum must lie in"):
        EF21(TopK(), momentum=1.0)
