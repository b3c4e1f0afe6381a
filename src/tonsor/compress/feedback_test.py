from functools import partial

import pytest
import torch

from tonsor.compress import Averaged, Comm, ErrorFeedback, PowerSGD, TopK, dense
from tonsor.compress.feedback import all_finite
from tonsor.compress.workers_test import bucket, same, together


def nothing(grads, comm, /, *, fraction=0.0):
    """Send a fraction of every gradient."""
    part = {name: grad * fraction for name, grad in grads.items()}
    return Averaged(dense(part, comm).mean, part)


def residuals(rule):
    return rule.state_dict()["residuals"]


def test_what_is_not_sent_is_kept_to_the_last_bit():
    rule = ErrorFeedback(nothing)
    rule({"w": torch.tensor([1.0, -2.0])}, Comm())
    rule({"w": torch.tensor([0.5, 0.25])}, Comm())
    assert torch.equal(residuals(rule)["w"], torch.tensor([1.5, -1.75]))
    half = ErrorFeedback(partial(nothing, fraction=0.5))
    half({"w": torch.tensor([4.0])}, Comm())
    assert half({"w": torch.tensor([4.0])}, Comm()).mean["w"] == 3.0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("inner", [partial(TopK, density=0.1), partial(PowerSGD, rank=2)], ids=str)
def test_an_overflow_on_one_worker_keeps_the_residuals_of_all(inner, bad):
    rules = [ErrorFeedback(inner()) for _ in range(3)]
    together(rules, [bucket(rank) for rank in range(3)])
    before = [residuals(rule) for rule in rules]
    grads = [bucket(10 + rank) for rank in range(3)]
    grads[1]["wide"][3, 4] = bad
    together(rules, grads)
    assert all(same(residuals(rule), kept) for rule, kept in zip(rules, before, strict=True))
    for averaged in together(rules, [bucket(20 + rank) for rank in range(3)]):
        assert all_finite([*averaged.mean.values(), *averaged.sent.values()])


def test_a_gradient_of_zeros_keeps_its_residual_back_and_others_go_on():
    rule = ErrorFeedback(TopK(density=0.1))
    grads = bucket(0)
    rule(grads, Comm())
    before = residuals(rule)
    unused = {**grads, "wide": torch.zeros_like(grads["wide"])}
    mean = rule(unused, Comm()).mean
    assert not mean["wide"].any()
    assert torch.equal(residuals(rule)["wide"], before["wide"])
    assert not torch.equal(residuals(rule)["conv"], before["conv"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_rounding_to_half_precision_loses_is_sent_later(dtype):
    eps = torch.finfo(dtype).eps
    rule = ErrorFeedback(dense)
    rule.load_state_dict({"residuals": {"w": torch.tensor([eps / 4])}, "compressor": {}})
    assert rule({"w": torch.ones(1, dtype=dtype)}, Comm()).mean["w"] == 1  # eps / 4 is rounded away
    assert residuals(rule)["w"].dtype == torch.float32
    assert residuals(rule)["w"] == eps / 4
    new = ErrorFeedback(nothing)
    for grad in (1.0, eps / 4):
        new({"w": torch.tensor([grad], dtype=dtype)}, Comm())
    assert residuals(new)["w"].item() == 1 + eps / 4


def test_a_name_that_comes_later_or_stays_away_is_no_trouble():
    rule = ErrorFeedback(nothing)
    rule({"a": torch.ones(2)}, Comm())
    rule({"b": torch.ones(3)}, Comm())
    assert {name: t.tolist() for name, t in residuals(rule).items()} == {"a": [1, 1], "b": [1, 1, 1]}


def test_the_state_holds_that_of_the_wrapped_rule():
    rule, other = ErrorFeedback(PowerSGD(rank=1)), ErrorFeedback(PowerSGD(rank=1))
    rule(bucket(0), Comm())
    other.load_state_dict(rule.state_dict())
    assert same(other.compressor.state_dict()["rights"], rule.compressor.state_dict()["rights"])
    assert ErrorFeedback(dense).state_dict() == {"residuals": {}, "compressor": {}}


def test_a_residual_of_another_shape_is_refused_before_anything_is_sent():
    rule = ErrorFeedback(nothing)
    rule({"w": torch.ones(2)}, Comm())
    with pytest.raises(ValueError, match=r"'w' has shape \(2,\), its gradient \(3,\)"):
        rule({"w": torch.ones(3)}, Comm())
    assert residuals(rule)["w"].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_is_every_element_of_every_tensor(dtype):
    largest = torch.full((300,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite([])
    assert all_finite([torch.empty(0, dtype=dtype)])
    assert all_finite([largest, -largest, torch.zeros((), dtype=dtype)])
    for bad in (torch.inf, -torch.inf, torch.nan):
        assert not all_finite([largest, torch.tensor([[1.0, bad]], dtype=dtype)])


def test_a_residual_of_half_the_memory_loses_nothing_on_the_average():
    rule, generator = ErrorFeedback(nothing, dtype="bfloat16"), torch.Generator().manual_seed(0)
    total = torch.zeros(200, dtype=torch.float64)
    nearest = torch.zeros(200, dtype=torch.bfloat16)
    for _ in range(800):
        grad = 0.003 + 0.0005 * torch.randn(200, generator=generator)
        rule({"w": grad}, Comm())
        total += grad.double()
        nearest = (nearest.float() + grad).to(torch.bfloat16)
    kept = residuals(rule)["w"]
    assert kept.dtype == torch.bfloat16
    assert nearest.double().mean() < 0.6 * total.mean()  # rounding to the nearest comes to a stop
    assert abs(kept.double().mean() - total.mean()) < 0.005 * total.mean()


def test_a_residual_of_half_the_memory_goes_on_bit_for_bit_and_is_rounded_apart_on_each_worker():
    went_on, resumed = (ErrorFeedback(TopK(density=0.1), dtype="bfloat16") for _ in range(2))
    for step in range(3):
        went_on(bucket(step), Comm())
    resumed.load_state_dict(went_on.state_dict())
    for step in range(3, 6):
        assert same(went_on(bucket(step), Comm()).mean, resumed(bucket(step), Comm()).mean)
    assert same(residuals(went_on), residuals(resumed))
    pair = [ErrorFeedback(nothing, dtype="bfloat16") for _ in range(2)]
    together(pair, [bucket(0)] * 2)
    assert not same(residuals(pair[0]), residuals(pair[1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_step_is_undone_by_one_bucket_that_is_not_finite(dtype):
    def run(steps):
        rules = [ErrorFeedback(TopK(density=0.1), dtype=dtype, whole_steps=True) for _ in range(2)]
        means = []
        for step in steps:
            for names in (("conv", "bias"), ("wide",), ("scale", "one")):
                grads = [{n: bucket(step + 50 * rank)[n] for n in names} for rank in range(2)]
                if step == 9 and names == ("wide",):
                    grads[1]["wide"][0, 0] = torch.inf
                means.append(together(rules, grads)[0].mean)
        return means[-3:], [residuals(rule) for rule in rules]

    (with_bad, kept), (without, kept_without) = run([1, 9, 2]), run([1, 2])
    if dtype == "float32":  # a step that is undone takes its turn at rounding
        assert all(same(a, b) for a, b in zip(with_bad, without, strict=True))
        assert all(same(a, b) for a, b in zip(kept, kept_without, strict=True))
    undone, _ = run([1, 9]), run([1])
    assert all(same(a, b) for a, b in zip(undone[1], run([1])[1], strict=True))


def test_an_unknown_type_of_residual_is_refused():
    with pytest.raises(ValueError, match="ErrorFeedback: unknown dtype 'bfloat'; did you mean 'bfloat16'"):
        ErrorFeedback(dense, dtype="bfloat")
    assert repr(ErrorFeedback(TopK(), dtype="bfloat16")) == (
        "ErrorFeedback(TopK(density=0.01), dtype='bfloat16')"
    )


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.float16])
def test_between_two_steps_one_residual_is_kept_and_nothing_else(dtype, size, grad_dtype):
    rule = ErrorFeedback(TopK(density=0.1), dtype=dtype)
    for step in range(2):
        rule(bucket(step, dtype=grad_dtype), Comm())
    kept = [held for held in vars(rule).values() if isinstance(held, dict)]
    tensors = [t for held in kept for t in held.values() if isinstance(t, torch.Tensor)]
    assert sum(t.untyped_storage().nbytes() for t in tensors) == size * sum(
        t.numel() for t in bucket(0).values()
    )
