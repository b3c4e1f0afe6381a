"""Every rule of the prune room keeps the room's promises; a new line in a table is tested at once."""

import inspect
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tonsor.prune import IMPORTANCES, PATTERNS, SCOPES, STATISTICS, collect, find_masks, needs
from tonsor.prune.statistics import NAME, arguments

importances = pytest.mark.parametrize("importance", IMPORTANCES.values(), ids=IMPORTANCES)
patterns = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
scopes = pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
statistics = pytest.mark.parametrize("statistic", STATISTICS)
SHAPES = [(6, 4), (5, 4, 3, 3), (3, 4, 2), (1, 4)]
SIGNED = {"gradient", "weight_gradient", "hessian_gradient"}
MATRICES = {"input_gram", "inverse_fisher"}  # a stack of square matrices, no values for each weight
OTHERWISE = {"input_mean": 2, **dict.fromkeys(MATRICES, 3)}  # dimensions of what does not broadcast
OF_MAPS = {"activation_rank"}  # only of convolutions
BLOCKS = {"per_output": 4, "n_of_m": 4}  # how many units compete, of a tensor of shape (6, 4), if not all
BY_VALUE = {"lamp", "owl"}  # look at how large the scores are, not at their order alone
FRAMED = {"uniform_plus"}  # spare the first and the last tensor, which therefore stand around those tested


def example(statistic, weight, generator):
    """Return a sound value of a statistic for a weight; a new statistic needs a line here."""
    of_inputs = [size if dim == 1 else 1 for dim, size in enumerate(weight.shape)]
    of_outputs = [size if dim == 0 else 1 for dim, size in enumerate(weight.shape)]
    shape = {
        **dict.fromkeys(["input_norm"], of_inputs),
        **dict.fromkeys([s for s in STATISTICS if s.startswith("activation")], of_outputs),
        "norm_scale": of_outputs,
        "positions": [1] * weight.ndim,
        "input_gram": (1, weight[0].numel(), weight[0].numel()),
        "inverse_fisher": (-(-weight.numel() // 5), 5, 5),
    }.get(statistic, weight.shape)
    if statistic in SIGNED:
        drawn = torch.randn(shape, generator=generator)
    elif statistic in MATRICES:
        rows = torch.randn(shape, generator=generator)
        drawn = rows @ rows.mT + torch.eye(shape[-1])
    else:
        drawn = "w" if statistic == NAME else torch.rand(shape, generator=generator)
    return drawn if isinstance(drawn, str) else drawn.to(weight.device)


def call(importance, weight):
    """Return the scores of a weight under seeded statistics."""
    generator = torch.Generator().manual_seed(1)
    return importance(weight, *[example(s, weight, generator) for s in arguments(importance)])


def choose(scope, units, sparsity):
    """Return which units stay, where need be between two tensors of one unit each, which are not shown."""
    if scope.__name__ not in FRAMED:
        return scope(units, sparsity)
    one = torch.ones_like(next(iter(units.values()), torch.ones(1)).reshape(-1)[:1])
    framed = scope({"first": one, **units, "last": one}, sparsity)
    return {name: framed[name] for name in units}


def drawn(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@importances
def test_an_importance_asks_only_for_known_statistics_and_has_defaults_for_the_rest(importance):
    first, *rest = inspect.signature(importance).parameters.values()
    asked = [p for p in rest if p.name in arguments(importance)]
    assert [first.name, *(p.name for p in asked)] == ["weight", *arguments(importance)]
    assert all(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in (first, *asked))
    assert {p.name for p in asked} <= {NAME, *STATISTICS, *MATRICES}
    tuned = [p for p in rest if p not in asked]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in tuned)
    assert all(p.default is not inspect.Parameter.empty for p in tuned)
    assert needs(partial(importance, **{p.name: p.default for p in tuned})) == needs(importance)


@importances
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_shaped_like_the_weight_and_finite_and_nothing_else_changes(importance, shape):
    weight = drawn(shape).requires_grad_()
    before, state = weight.detach().clone(), torch.get_rng_state()
    first, second = call(importance, weight), call(importance, weight)
    assert first.shape == weight.shape
    assert first.isfinite().all()
    assert torch.equal(first, second)
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.requires_grad


@importances
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_float_type_can_be_scored_and_chosen_from(importance, dtype):
    weight = drawn((6, 4)).to(dtype)
    stats = {s: example(s, weight, torch.Generator()) for s in needs(importance)}
    masks = find_masks({"w": weight}, 0.25, stats={"w": stats}, importance=importance)
    assert (~masks["w"]).sum() == 6


@importances
def test_a_weight_of_zeros_can_be_scored(importance):
    assert call(importance, torch.zeros(6, 4)).isfinite().all()


@importances
def test_an_importance_never_waits_for_the_device(importance):
    with FakeTensorMode():
        weight = torch.zeros(6, 4, device="meta")
        assert call(importance, weight).device.type == "meta"


@patterns
def test_a_pattern_is_frozen_and_tuned_by_keyword(pattern):
    assert pickle.loads(pickle.dumps(pattern())) == pattern()
    assert eval(repr(pattern()), {pattern.__name__: pattern}) == pattern()
    assert {hash(pattern())} == {hash(pattern())}
    for parameter in inspect.signature(pattern).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty


@patterns
@given(shape=st.lists(st.integers(0, 4), max_size=4), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_what_is_expanded_reduces_to_the_same_choice(pattern, shape, seed):
    weights = {"w": drawn(shape, seed).abs() + 1}
    units = pattern().reduce(weights)
    keep = {"w": drawn(units["w"].shape, seed + 1) > 0}
    masks = pattern().expand(keep, weights)
    assert masks["w"].shape == weights["w"].shape
    assert masks["w"].dtype is torch.bool
    if weights["w"].numel():
        again = pattern().reduce({"w": masks["w"].float()})["w"] > 0
        assert torch.equal(again, keep["w"])


@patterns
def test_a_pattern_never_waits_for_the_device(pattern):
    with FakeTensorMode():
        weights = {"w": torch.zeros(6, 4, device="meta")}
        keep = {"w": pattern().reduce(weights)["w"] > 0}
        assert pattern().expand(keep, weights)["w"].shape == (6, 4)


@scopes
def test_a_scope_obeys_the_one_law(scope):
    units, sparsity, *rest = inspect.signature(scope).parameters.values()
    assert (units.name, sparsity.name) == ("units", "sparsity")
    assert units.kind is sparsity.kind is inspect.Parameter.POSITIONAL_ONLY
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in rest)
    assert all(p.default is not inspect.Parameter.empty for p in rest)


@scopes
@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan"), 50])
def test_a_sparsity_that_is_no_fraction_is_refused(scope, sparsity):
    with pytest.raises(ValueError, match=rf"prune\.{scope.__name__}.*must lie in \[0, 1\); got"):
        scope({"w": torch.ones(4)}, sparsity)


@scopes
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=3),
    low=st.floats(0, 0.5),
    high=st.floats(0, 0.5),
    levels=st.integers(1, 5),
)
@settings(max_examples=50)
def test_higher_sparsity_keeps_a_subset_and_zero_keeps_all_ties_or_not(scope, shapes, low, high, levels):
    low, high = sorted((low, high))
    units = {str(i): (drawn(shape, i) * levels).round() for i, shape in enumerate(shapes)}
    more, fewer, everything = (choose(scope, units, sparsity) for sparsity in (low, high, 0.0))
    for name, unit in units.items():
        assert fewer[name].shape == unit.shape
        assert fewer[name].dtype is torch.bool
        assert everything[name].all()
        assert not (fewer[name] & ~more[name]).any()


@scopes
def test_of_equal_units_the_first_go_first_and_exactly_as_many_as_asked(scope):
    block = BLOCKS.get(scope.__name__, 24)
    keep = choose(scope, {"w": torch.full((6, 4), 0.7)}, 0.25)["w"]
    if scope.__name__ == "owl":  # the outputs take turns: six go, the first of each
        keep = keep.T
    keep = keep.reshape(-1, block)
    assert torch.equal(keep, (torch.arange(block) >= block // 4).expand_as(keep))


@scopes
def test_only_the_order_of_the_scores_counts_unless_the_scope_says_otherwise(scope):
    units = {"a": drawn((6, 4)), "b": drawn((3, 4), 1)}
    stretched = {name: unit.double().exp().square() for name, unit in units.items()}
    plain, again = choose(scope, units, 0.5), choose(scope, stretched, 0.5)
    assert all(torch.equal(plain[name], again[name]) for name in units) == (scope.__name__ not in BY_VALUE)


@scopes
def test_outputs_in_another_order_keep_the_same_weights(scope):
    unit, order = drawn((6, 4)), torch.tensor([3, 1, 5, 0, 2, 4])
    straight = choose(scope, {"w": unit}, 0.5)["w"]
    assert torch.equal(choose(scope, {"w": unit[order]}, 0.5)["w"], straight[order])


@scopes
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5])
def test_a_scope_never_waits_for_the_device(scope, sparsity):
    with FakeTensorMode():
        shapes = {"a": (6, 4), "b": (5,), "c": (), "d": (3, 5, 2, 2)}
        units = {name: torch.zeros(shape, device="meta") for name, shape in shapes.items()}
        keep = choose(scope, units, sparsity)
        assert {name: tuple(k.shape) for name, k in keep.items()} == shapes
        assert all(k.device.type == "meta" for k in keep.values())


@statistics
def test_a_statistic_broadcasts_to_its_weight_and_leaves_no_hook(statistic):
    nn = torch.nn
    conv = nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten()
    model = nn.Sequential(*conv, nn.Linear(24, 2), nn.BatchNorm1d(2))
    batches = [(drawn((3, 4, 4, 4), seed), None) for seed in range(2)]
    weights = ["0.weight"] if statistic in OF_MAPS else ["0.weight", "4.weight"]
    gather = partial(collect, model, batches, weights=weights, loss=lambda output, _: output.square().mean())
    found = gather(names=[statistic])
    for name in weights:
        value, weight = found[name][statistic], model.get_parameter(name)
        if statistic in OTHERWISE:
            assert value.ndim == OTHERWISE[statistic]
            assert len(set(value.shape[1:])) == 1
        else:
            assert torch.broadcast_shapes(value.shape, weight.shape) == weight.shape
        assert value.isfinite().all()
        assert not value.requires_grad
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
