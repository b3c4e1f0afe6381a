"""What a code loses: at most so much of the gradient, or nothing in the mean, as its paper says."""

import inspect
from functools import partial

import pytest
import torch

from tonsor.compress import QSGD, RULES, Comm, Natural, TernGrad
from tonsor.compress.workers_test import together

SHAPE = (8, 1024)
# |C(x) - x|^2 / |x|^2 is at most: half a unit of the last place, a step, or what one large element leaves
CONTRACTS = {
    "dense": 0.0,
    "fp16": 2.0**-22,
    "bf16": 2.0**-16,
    "e4m3": 2.0**-8,
    "e5m2": 2.0**-6,
    "int8": 256 / 254**2,
    "int4": 1 - 1 / 256,
    "sign": 1 - 1 / 1024,
    "MajorityVote": 1 - 1 / 1024,
    "TopK": 1 - 0.01,
}
# E C(x) = x, and E |C(x) - x|^2 / |x|^2 is at most
UNBIASED = {
    "QSGD": (QSGD, 512**0.5 / 7),
    "QSGD, 1 level": (partial(QSGD, levels=1), 512**0.5),
    "QSGD, 8 bits": (partial(QSGD, levels=127), 512 / 127**2),
    "TernGrad, not clipped": (partial(TernGrad, clip=float("inf")), 512**0.5),
    "Natural": (Natural, 1 / 8),
}
AT_RANDOM = {"QSGD", "TernGrad", "Natural"}
KINDS = ("normal", "heavy", "sparse", "constant", "tiny")
every_kind = pytest.mark.parametrize("kind", KINDS)


def gradient(kind):
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(KINDS.index(kind)))
    return {
        "normal": normal,
        "heavy": normal**5,
        "sparse": normal * (normal > 2.5),
        "constant": torch.full(SHAPE, -0.3),
        "tiny": normal * 1e-20,
    }[kind]


def lost(x, y):
    return ((x.double() - y.double()).square().sum() / x.double().square().sum()).item()


@pytest.mark.parametrize("name", [name for name in RULES if name not in AT_RANDOM])
@every_kind
def test_a_rule_without_chance_loses_no_more_than_it_promises(name, kind):
    rule, x = RULES[name]() if inspect.isclass(RULES[name]) else RULES[name], gradient(kind)
    assert lost(x, rule({"w": x}, Comm()).sent["w"]) <= CONTRACTS.get(name, 1.0) + 1e-6


@pytest.mark.parametrize("name", UNBIASED)
@every_kind
def test_a_rule_of_chance_is_right_in_the_mean_and_as_noisy_as_its_paper_says(name, kind):
    make, bound = UNBIASED[name]
    rule, x, steps = make(), gradient(kind), 150
    total, squares, noise = torch.zeros(3, *SHAPE, dtype=torch.float64)
    for _ in range(steps):
        error = rule({"w": x}, Comm()).mean["w"].double() - x.double()
        total += error
        squares += error**2
    noise = squares.sum() / steps
    assert noise / x.double().square().sum() <= bound * 1.05
    assert total.norm() / steps <= 1.2 * (noise / steps).sqrt() + 1e-6 * x.norm()
    assert (total.sum() / steps).abs() <= 6 * (noise / steps).sqrt() + 1e-6 * x.abs().sum()
    if kind in ("normal", "heavy"):
        assert total.norm() > 0


@pytest.mark.parametrize("clip", [1.0, 2.5])
def test_terngrad_is_right_in_the_mean_of_the_clipped_gradient(clip):
    rule, x, steps = TernGrad(clip=clip), gradient("heavy"), 400
    blocks = x.double().view(-1, 512)
    bound = clip * blocks.square().mean(1, keepdim=True).sqrt()
    clipped = blocks.clamp(-bound, bound).view(SHAPE)
    seen = torch.stack([rule({"w": x}, Comm()).mean["w"].double() for _ in range(steps)])
    top = bound.minimum(blocks.abs().amax(1, keepdim=True)).expand_as(blocks).reshape(SHAPE)
    torch.testing.assert_close(seen.abs(), seen.ne(0) * top, rtol=1e-5, atol=0)  # three values
    deviation = (top * clipped.abs() - clipped**2).clamp(min=0).sqrt() / steps**0.5
    hits = 4 * top / steps  # an element far below the top is hit once or twice, or never
    assert ((seen.mean(0) - clipped).abs() <= 6 * deviation + hits).all()


@pytest.mark.parametrize("make", [QSGD, Natural], ids=lambda make: make.__name__)
def test_a_number_goes_to_one_of_its_two_neighbours(make):
    x = gradient("normal")
    got = make()({"w": x}, Comm()).mean["w"].double()
    if make is Natural:
        low = x.double().abs().log2().floor().exp2()
        step = low
    else:
        step = (x.double().view(-1, 512).norm(dim=1, keepdim=True) / 7).expand(-1, 512).reshape(SHAPE)
        low = (x.double().abs() / step).floor() * step
    near = torch.isclose(got.abs(), low, rtol=1e-5) | torch.isclose(got.abs(), low + step, rtol=1e-5)
    assert near.all()
    assert (got * x >= 0).all()


@pytest.mark.parametrize("name", RULES)
def test_the_default_type_of_floats_does_not_matter(name):
    def run():
        rule = RULES[name]() if inspect.isclass(RULES[name]) else RULES[name]
        return rule({"w": x}, Comm()).mean["w"]

    x = gradient("normal")
    want = run()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(run(), want)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", [QSGD, TernGrad, Natural], ids=lambda make: make.__name__)
def test_workers_round_apart_so_that_their_mean_is_closer(make):
    grads = [{"w": gradient("normal")} for _ in range(4)]
    given = [
        averaged.sent["w"] - g["w"]
        for averaged, g in zip(together([make() for _ in grads], grads), grads, strict=True)
    ]
    for rank in range(4):
        for other in range(rank):
            cosine = torch.cosine_similarity(given[rank].flatten(), given[other].flatten(), dim=0)
            assert abs(cosine) < 0.6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(QSGD, levels=0), r"compress.QSGD: levels must lie in \[1, 127\]; got 0"),
        (partial(QSGD, levels=128), "got 128"),
        (partial(QSGD, block=0), "compress.QSGD: block must be at least 1"),
        (partial(TernGrad, clip=0.0), "compress.TernGrad: clip must be above 0"),
        (partial(TernGrad, clip=float("nan")), "clip must be above 0; got nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
