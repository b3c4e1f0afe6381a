from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import (
    Comm,
    ErrorFeedback,
    TopK,
    dense,
    gather_state,
    residual_norm,
    spread_state,
)
from tonsor.compress.contract_test import ALL, make, state_of
from tonsor.compress.own_state import own_tensors, shares
from tonsor.compress.workers_test import bucket, same, together, workers

STEPS = 3
every_rule = pytest.mark.parametrize("name", ALL)


class Several:
    """A wrapper as a user may write one: rules in a dict and in a list, and something of its own."""

    own_state = ("velocity",)

    def __init__(self):
        self.by_name, self.rules = {"w": ErrorFeedback(dense)}, [dense, ErrorFeedback(TopK(density=0.5))]
        self.velocity, self.steps = {}, 0

    def state_dict(self):
        return {
            "by_name": {name: rule.state_dict() for name, rule in self.by_name.items()},
            "rules": [state_of(rule) for rule in self.rules],
            "velocity": dict(self.velocity),
            "steps": self.steps,
        }


def everything(state, path=()):
    """Yield all tensors of a nested state, whoever they belong to."""
    pairs = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in pairs:
        if isinstance(value, torch.Tensor):
            yield (*path, str(key)), value
        elif isinstance(value, dict | list):
            yield from everything(value, (*path, str(key)))


def trained(name, size):
    rules = [make(name) for _ in range(size)]
    for step in range(STEPS):
        together(rules, [bucket(10 * step + rank) for rank in range(size)])
    return rules


def mean_of(rule, states):
    own = [own_tensors(rule, state) for state in states]
    return {path: torch.stack([each[path].double() for each in own]).mean(0) for path in own[0]}


@every_rule
def test_a_rule_tells_all_that_differs_from_worker_to_worker(name):
    rules = trained(name, 3)
    states = [state_of(rule) for rule in rules]
    told = own_tensors(rules[0], states[0])
    for path, tensor in everything(states[0]):
        others = [dict(everything(state))[path] for state in states[1:]]
        assert path in told or all(same({"": tensor}, {"": other}) for other in others), path


@every_rule
@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_the_mean_over_the_workers_stays_on_another_number_of_them(name, after):
    rules = trained(name, 3)
    states = [state_of(rule) for rule in rules]
    spread = [spread_state(rules[0], states, rank=rank, size=after) for rank in range(after)]
    for path, mean in mean_of(rules[0], states).items():
        torch.testing.assert_close(mean_of(rules[0], spread)[path], mean, atol=1e-5, rtol=1e-5)
    assert [[path for path, _ in everything(state)] for state in spread] == [
        [path for path, _ in everything(states[0])]
    ] * after
    new = [make(name) for _ in range(after)]
    for rule, state in zip(new, spread, strict=True):
        getattr(rule, "load_state_dict", dict)(state)
    got = together(new, [bucket(rank) for rank in range(after)])
    assert all(same(got[0].mean, other.mean) for other in got)


@every_rule
def test_on_as_many_workers_every_one_goes_on_bit_for_bit(name):
    went_on = trained(name, 3)
    comms = workers(3)
    gathered = together([gather_state] * 3, list(went_on), comms)
    assert gathered[1:] == [[], []]
    resumed = [make(name) for _ in range(3)]
    for rank, rule in enumerate(resumed):
        state = spread_state(rule, gathered[0], rank=rank, size=3)
        assert repr(state) == repr(state_of(went_on[rank]))
        getattr(rule, "load_state_dict", dict)(state)
    for step in range(STEPS, STEPS + 3):
        grads = [bucket(10 * step + rank) for rank in range(3)]
        for a, b in zip(together(went_on, grads), together(resumed, grads), strict=True):
            assert same(a.mean, b.mean)


@settings(max_examples=50)
@given(size=st.integers(1, 12), before=st.integers(1, 12))
def test_every_worker_before_gives_as_much_as_the_others(size, before):
    taken = [shares(rank, size, before) for rank in range(size)]
    for each in taken:
        assert sum(each.values()) == pytest.approx(1)
        assert min(each.values()) > 0
    for worker in range(before):
        assert sum(each.get(worker, 0) for each in taken) == pytest.approx(size / before)


def test_only_the_states_that_are_needed_are_looked_at():
    states = [None, None, {"residuals": {"w": torch.ones(2)}, "compressor": {}}, None]
    assert spread_state(ErrorFeedback(dense), states, rank=2, size=4)["residuals"]["w"].tolist() == [1, 1]


def test_states_that_are_spread_share_no_dict_and_change_none():
    rule = ErrorFeedback(dense)
    states = [{"residuals": {"w": torch.full((2,), float(rank))}, "compressor": {}} for rank in range(2)]
    one = spread_state(rule, states, rank=0, size=1)
    copy = spread_state(rule, states, rank=0, size=2)
    copy["residuals"]["w"] = torch.zeros(2)
    assert one["residuals"]["w"].tolist() == [0.5, 0.5]
    assert [state["residuals"]["w"].tolist() for state in states] == [[0, 0], [1, 1]]


def test_rules_in_dicts_and_lists_are_found():
    rule, grads = Several(), {"w": torch.tensor([[1.0, 2.0, 3.0, 9.0]])}
    rule.rules[1](grads, Comm())
    rule.by_name["w"](grads, Comm())
    rule.velocity["w"] = torch.ones(1)
    paths = list(own_tensors(rule, rule.state_dict()))
    assert paths == [("by_name", "w", "residuals", "w"), ("rules", "1", "residuals", "w"), ("velocity", "w")]
    states = [rule.state_dict(), rule.state_dict()]
    states[1]["velocity"] = {"w": torch.tensor([3.0])}
    one = spread_state(rule, states, rank=0, size=1)
    assert one["velocity"]["w"].item() == 2
    assert one["rules"][0] == {}
    kept = [t for path, t in own_tensors(rule, rule.state_dict()).items() if path[0] != "velocity"]
    assert residual_norm(rule).item() == pytest.approx(sum(t.norm().item() ** 2 for t in kept) ** 0.5)


def test_without_residuals_their_norm_is_zero():
    assert residual_norm(dense) == residual_norm(TopK()) == residual_norm(ErrorFeedback(dense)) == 0


def test_states_of_different_models_are_refused():
    rule = ErrorFeedback(dense)
    states = [{"residuals": {name: torch.ones(2)}, "compressor": {}} for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"worker 1 keeps other tensors .* \['residuals.a', 'residuals.b'\]"):
        spread_state(rule, states, rank=0, size=1)
    with pytest.raises(ValueError, match="no state to spread"):
        spread_state(rule, [], rank=0, size=1)
    others = SimpleNamespace(gather=lambda tensors: [tensors, [tensor + 1 for tensor in tensors]])
    with pytest.raises(ValueError, match="the workers keep different names or shapes"):
        gather_state(rule, others)
