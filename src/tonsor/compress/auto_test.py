import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Auto, Averaged, TopK, dense
from tonsor.compress.link import Link, Message, fit
from tonsor.compress.plan import Cost, choose, finish
from tonsor.compress.workers_test import bucket, same, together, workers

BUCKETS = ({"a": (40, 50), "b": (50,)}, {"c": (40, 100)})


class Lab:
    """A worker whose clock is moved by what it computes and sends, and by nothing else."""

    def __init__(self, comm, *, alpha=1e-3, beta=1e-6, backward=1e-3):
        self.arrival = None
        self.now, self.alpha, self.beta, self.backward = 0.0, alpha, beta, backward
        self.size, self.rank, self._comm = comm.size, comm.rank, comm
        self._barrier = comm._barrier

    def clock(self):
        return self.now if self.arrival is None else self.arrival

    bytes_sent = property(lambda self: self._comm.bytes_sent)

    def mean(self, tensors):
        return self._send(self._comm.mean, tensors)

    def gather(self, tensors):
        return self._send(self._comm.gather, tensors)

    def _send(self, call, tensors):
        before = self.bytes_sent
        answer = call(tensors)
        if self.bytes_sent > before:
            self.now += self.alpha + self.beta * (self.bytes_sent - before)
        return answer


def slow(lab, seconds, rule, grads, comm):
    """Take that long to compute."""
    lab.now += seconds[0]
    return rule(grads, comm)


def run(steps, *, labs=None, compute=0.0, watch=None, **options):
    """Train on labs; return their rules and the length of each step on the first."""
    labs = labs or [Lab(comm) for comm in workers(2)]
    seconds = [compute]  # of the candidate; may be changed while it runs
    settings = {"steps": 8, "every": 20, "error": 0.99, **options}
    rules = []
    for lab in labs:
        make = lambda lab=lab: partial(slow, lab, seconds, TopK(density=0.01))  # noqa: E731
        rules.append(Auto(candidates={"top-k": make}, clock=lab.clock, **settings))
    times, means = [], []
    for step in range(steps):
        begin = labs[0].now
        mean = {}
        for place, shapes in enumerate(BUCKETS):
            grads = [bucket(100 * step + rank, shapes=shapes) for rank in range(len(labs))]
            for lab, rule in zip(labs, rules, strict=True):
                lab.arrival = begin + (1 + place) * lab.backward  # while the bucket before may be sent
                for name in shapes:
                    rule.arrived(name)
                lab.now, lab.arrival = max(lab.now, lab.arrival), None
            if place == 0:
                left = [rule.leaves_step() for rule in rules]
                assert len(set(left)) == 1
            got = together([dense] * len(labs) if left[0] else rules, grads, labs)
            assert all(same(got[0].mean, other.mean) for other in got)
            mean |= got[0].mean
        times.append(labs[0].now - begin)
        means.append(mean)
        if watch is not None:
            watch(step, rules, seconds, labs)
    return rules, times, means


def test_over_a_slow_link_it_compresses_and_says_so():
    told = []
    rules, times, _ = run(40, tell=told.append)
    assert rules[0].choice == rules[1].choice == {"a": "top-k", "b": "top-k", "c": "top-k"}
    assert times[-2] < 0.5 * times[0]
    assert len(told) == 2  # chosen, then measured; the first worker alone tells it


def test_the_trial_changes_no_gradient():
    _, _, means = run(8)
    for step, mean in enumerate(means):
        for shapes in BUCKETS:
            grads = [bucket(100 * step + rank, shapes=shapes) for rank in range(2)]
            for name in shapes:
                torch.testing.assert_close(mean[name], (grads[0][name] + grads[1][name]) / 2)


@pytest.mark.parametrize(
    ("link", "compute", "options"),
    [
        ({"beta": 1e-9}, 0.05, {}),  # a fast link, and a candidate that computes for long
        ({"beta": 1e-9, "alpha": 1e-5}, 0.0, {}),  # messages that backward hides all but for the last
        ({}, 0.0, {"error": 0.1}),  # no error is allowed to speak of
        ({}, 0.0, {"margin": 0.99}),  # nothing saves as much
    ],
)
def test_in_doubt_nothing_is_compressed_and_ddp_averages_by_itself(link, compute, options):
    labs = [Lab(comm, **{"backward": 0.02, **link}) for comm in workers(2)]
    rules, times, _ = run(16, labs=labs, compute=compute, **options)
    assert rules[0].choice == {}
    assert rules[0].why.startswith("too little to gain")
    assert rules[0].leaves_step()
    assert times[-1] == pytest.approx(times[0])


def test_a_choice_that_is_not_faster_after_all_is_taken_back_and_loses_nothing():
    def watch(step, rules, seconds, labs):
        if step == 8:
            assert rules[0].choice
            seconds[0] = 1.0  # what was quick in the trial is slow now

    rules, times, means = run(24, watch=watch)
    assert rules[0].why.startswith("taken back")
    assert times[-1] == pytest.approx(times[0])
    for shapes in BUCKETS:
        for name, shape in shapes.items():
            grads = [
                bucket(100 * step + rank, shapes=shapes)[name] for step in range(24) for rank in range(2)
            ]
            want = torch.stack(grads).sum(0) / 2
            torch.testing.assert_close(sum(mean[name] for mean in means), want, atol=1e-4, rtol=1e-4)
            assert want.shape == torch.Size(shape)


def test_when_the_link_changes_all_is_measured_anew():
    def watch(step, rules, seconds, labs):
        if step == 19:
            assert rules[0].choice
            for lab in labs:
                lab.alpha, lab.beta = 1e-6, 1e-10  # another network

    rules, _, _ = run(70, watch=watch, compute=0.004)
    assert rules[0].choice == {}
    assert rules[0].why.startswith("too little to gain")
    kept, _, _ = run(70, compute=0.004)
    assert kept[0].choice
    assert "ms a step measured" in kept[0].why


@pytest.mark.parametrize("stop", [3, 30])
def test_a_resumed_run_goes_on_as_chosen(stop):
    rules, _, _ = run(stop)
    labs = [Lab(comm) for comm in workers(2)]
    again, _, _ = run(0, labs=labs)
    for new, old in zip(again, rules, strict=True):
        state = old.state_dict()
        if old.choice:
            with pytest.raises(ValueError, match="other candidates, as 'top-k'; here are: none"):
                Auto(candidates={}).load_state_dict(state)
        new.load_state_dict(state)
    assert again[0].choice == rules[0].choice
    grads = [bucket(rank, shapes=BUCKETS[0]) for rank in range(2)]
    on, resumed = together(rules, grads), together(again, grads, labs)
    assert same(on[0].mean, resumed[0].mean)


def test_the_table_has_a_row_for_each_bucket():
    rules, _, _ = run(9)
    lines = rules[0].table().splitlines()
    assert lines[0] == "mean: 1 ms a message and 1 MB a second"
    assert lines[2].split() == ["bucket", "comes", "none", "top-k", "chosen", "(ms)"]
    assert [line.split()[0] for line in lines[3:5]] == ["a", "c"]
    assert lines[-1] == rules[0].why


def test_settings_out_of_range_are_told():
    with pytest.raises(ValueError, match=r"steps at least 8 for 3 candidates; got error=0.95, .* steps=7"):
        Auto(steps=7)
    with pytest.raises(ValueError, match=r"got error=1.5"):
        Auto(error=1.5)


times = st.floats(0, 1)


@settings(max_examples=50)
@given(st.data(), st.integers(2, 4), st.integers(2, 3), st.floats(0, 1))
def test_a_plan_is_within_the_error_and_nearly_the_best(data, buckets, candidates, error):
    arrivals = sorted(data.draw(times) for _ in range(buckets))
    whole = [data.draw(st.floats(0.1, 1)) for _ in range(buckets)]
    costs = []
    for place in range(buckets):
        others = [
            Cost(data.draw(times), data.draw(times), whole[place] * data.draw(times))
            for _ in range(candidates - 1)
        ]
        costs.append([Cost(0.1, data.draw(times), 0.0), *others])
    own = [row[0].compute for row in costs]

    def end(plan):
        return finish(arrivals, [row[c] for row, c in zip(costs, plan, strict=True)], own=own)

    def is_allowed(plan):
        lost = sum(row[c].lost for row, c in zip(costs, plan, strict=True))
        return lost <= error**2 * sum(whole) * (1 + 1e-12)

    plan = choose(arrivals, costs, error=error, whole=whole)
    every = itertools.product(range(candidates), repeat=buckets)
    best = min(end(other) for other in every if is_allowed(other))
    assert is_allowed(plan)
    assert best <= end(plan) + 1e-9
    assert end(plan) <= end((0,) * buckets)
    assert end(plan) <= 1.5 * best + 1e-9


@settings(max_examples=30)
@given(
    st.floats(1e-6, 1e-1),
    st.floats(1e-10, 1e-6),
    st.lists(st.integers(1, 10**8), min_size=2, max_size=6, unique=True),
)
def test_a_line_is_found_again_and_the_slower_of_one_size_does_not_count(alpha, beta, sizes):
    messages = [Message("mean", n, alpha + beta * n) for n in sizes]
    found = fit([*messages, *[m._replace(seconds=3 * m.seconds) for m in messages]])["mean"]
    for message in messages:
        assert found.seconds(message.nbytes) == pytest.approx(message.seconds, rel=1e-3)


def test_lines_are_never_negative():
    assert fit([Message("a", 10, 1.0), Message("a", 20, 0.5)])["a"].beta == 0
    assert fit([Message("a", 10, 0.1), Message("a", 20, 9.0)])["a"].alpha == 0
    assert fit([Message("a", 10, 0.1), Message("a", 0, 9.0)])["a"] == Link(0.0, 0.01)
    assert fit([]) == {}


def test_averaged_is_what_every_phase_returns():
    rules, _, _ = run(1)
    assert rules[0].why == "measuring"
    grads = [bucket(rank, shapes=BUCKETS[0]) for rank in range(2)]
    assert all(isinstance(each, Averaged) for each in together(rules, grads))
