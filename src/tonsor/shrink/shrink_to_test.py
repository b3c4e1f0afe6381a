import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tonsor.shrink import channel_groups, shrink_to
from tonsor.shrink.nets_test import NETS, built, mlp, vgg

CUT = [name for name in NETS if name not in ("normed", "attending", "sequenced")]


def macs(model, example):
    """Return what torch counts in one call: the oracle."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return counter.get_total_flops() // 2


def params(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.7, 0.4])
@pytest.mark.parametrize("name", CUT)
def test_a_share_of_the_work_is_met_and_counted_by_torch(name, share):
    model, example = built(name)
    before = macs(model, example)
    reached = shrink_to(model, example, macs=share)
    assert reached.before == before
    assert reached.after == macs(model, example) <= share * before
    assert reached.shrunk.max_difference < 1e-10


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_the_cut_is_the_least_no_single_unit_could_have_stayed(share):
    model, x = vgg(), torch.randn(1, 2, 8, 8)
    groups = channel_groups(model, x)
    bound = share * params(model)
    reached = shrink_to(model, x, groups=groups, params=share)
    assert reached.after == params(model) <= bound
    gone = {name: units - stay for name, (stay, units) in reached.widths.items()}
    for name, count in gone.items():
        if count:
            assert groups.costs.after({**gone, name: count - 1}).params > bound


def test_the_best_units_by_the_given_scores_stay_and_of_equal_ones_the_first_go():
    model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1))
    scores = {"0.weight": torch.tensor([3.0, 1, 1, 1, 5, 1])[:, None].expand(6, 2)}
    reached = shrink_to(model, torch.ones(1, 2), scores=scores, params=0.6)
    assert reached.shrunk.removed == {"0.weight": [1, 2, 3]}


def test_scores_may_be_a_function_of_the_weights_and_groups_bring_their_limits():
    model, x = mlp(), torch.randn(1, 5)
    groups = channel_groups(model, x).limited(ignore=["0"], multiple_of=3)
    seen = []
    reached = shrink_to(
        model,
        x,
        scores=lambda w: seen.append(sorted(w)) or {n: t.abs() for n, t in w.items()},
        groups=groups,
        bytes=0.8,
    )
    assert seen == [["0.weight", "3.weight", "5.weight"]]
    assert reached.widths == {"3.weight": (3, 7)}
    assert model[0].out_features == 6


@pytest.mark.parametrize("target", [{"params": 97}, {"macs": 40}, {"bytes": 300}])
def test_an_absolute_target_is_in_its_unit(target):
    model, x = mlp(), torch.randn(1, 5)
    reached = shrink_to(model, x, **target)
    assert reached.after <= next(iter(target.values())) < reached.before
    assert {"params": params(model), "macs": macs(model, x), "bytes": 4 * params(model)}[
        reached.target
    ] == reached.after


def test_a_target_out_of_reach_says_how_far_one_can_go_and_leaves_the_model():
    model, x = mlp(), torch.randn(1, 5)
    before = copy.deepcopy(model.state_dict())
    lowest = channel_groups(model, x).costs.after({"0.weight": 5, "3.weight": 6}).params
    with pytest.raises(ValueError, match=f"brought from 109 to {lowest}; 10 was asked for"):
        shrink_to(model, x, params=10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert shrink_to(model, x, params=lowest).after == lowest


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({}, "give one number.*got none"),
        ({"macs": 0.5, "params": 0.5}, "got macs=0.5, params=0.5"),
        ({"flops": 0.5}, "unknown target 'flops'"),
        ({"macs": 0}, "macs must be above 0"),
        ({"macs": "half"}, "give one number.*macs=half"),
    ],
)
def test_a_target_that_is_none_is_refused(target, said):
    with pytest.raises(ValueError, match=said):
        shrink_to(mlp(), torch.randn(1, 5), **target)


def test_a_target_that_is_met_already_removes_nothing():
    model = mlp()
    assert shrink_to(model, torch.randn(1, 5), params=1000).shrunk.removed == {}
    assert params(model) == 109


def test_the_choice_is_as_good_as_any_of_all_choices_of_widths():
    """The oracle tries every pair of widths: what was found loses no more than the best and one unit."""
    torch.manual_seed(3)
    model, x = mlp(), torch.randn(1, 5)
    groups = channel_groups(model, x)
    scores = {name: p.detach().square() for name, p in model.named_parameters() if p.ndim > 1}
    units = {name: s.sort().values for name, s in groups.reduce(scores).items()}
    bound = 0.5 * 109

    def loss(gone):
        shares = [float(units[name][count:].sum() / units[name].sum()) for name, count in gone.items()]
        return sum(share**-2 for share in shares)

    every = [dict(zip(units, pair, strict=True)) for pair in itertools.product(range(6), range(7))]
    fits = [gone for gone in every if groups.costs.after(gone).params <= bound]
    found = {n: size - stay for n, (stay, size) in shrink_to(model, x, params=0.5).widths.items()}
    fewer = [{**found, name: count - 1} for name, count in found.items() if count]
    assert found in fits
    assert loss(found) - min(map(loss, fits)) <= loss(found) - min(map(loss, fewer))


def test_optimizer_and_average_follow():
    model, x = mlp(), torch.randn(4, 5)
    ema = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).sum().backward()
    optimizer.step()
    shrink_to(model, x, optimizer=optimizer, ema=ema, params=0.5)
    assert [p.shape for p in ema.parameters()] == [p.shape for p in model.parameters()]
    model(x).sum().backward()
    optimizer.step()
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in model.parameters())


@pytest.mark.slow
def test_time_is_measured_and_cut_where_it_is_won():
    """The wide layer takes nearly all of the time, the narrow one of equal scores nearly none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2048), nn.ReLU(), nn.Linear(2048, 1024))
    reached = shrink_to(model, torch.randn(64, 8), latency_ms=0.6)
    # How long the small one takes is not asked: another program may run meanwhile.
    narrow, wide = (reached.widths[name] for name in ("0.weight", "2.weight"))
    assert wide[0] / wide[1] < 0.7 < narrow[0] / narrow[1]
    assert list(reached.tables["2.weight"]) == [512, 1024, 1536, 2048]
