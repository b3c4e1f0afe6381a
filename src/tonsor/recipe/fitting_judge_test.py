import math

import pytest
import torch
from torch import nn

from tonsor.recipe.fitting_how import How, squared_distance
from tonsor.recipe.fitting_judge import Judge, choose_step
from tonsor.recipe.fitting_limits import Budget


class Ladder:
    """Nine steps, each a hundred bytes less, with the falls given; counts what is measured."""

    def __init__(self, *falls):
        self.falls, self.last, self.measured = falls, len(falls) - 1, []

    def size(self, step):
        return 1000 - 100 * step

    def metric(self, step):
        self.measured.append(step)
        return self.falls[step]


def chosen(ladder, **limits):
    below = limits.pop("below", None)
    return choose_step(Budget(**limits), ladder, fall=lambda metric: metric, below=below)


RISING = (0.0, 0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0)


def test_bytes_alone_take_the_most_bits_that_fit_and_measure_nothing():
    ladder = Ladder(*RISING)
    assert chosen(ladder, max_bytes=750) == 3
    assert chosen(ladder, max_bytes=100) == 8
    assert chosen(ladder, latency_ms=1.0) == 0
    assert ladder.measured == []


@pytest.mark.parametrize("most", [0.0, 0.25, 0.5, 3.0])
def test_the_fall_takes_the_fewest_bits_that_keep_it_in_few_measurements(most):
    ladder = Ladder(*RISING)
    assert chosen(ladder, max_fall=most) == max(n for n, fall in enumerate(RISING) if fall <= most)
    assert len(ladder.measured) <= 2 + math.ceil(math.log2(len(RISING)))


def test_both_limits_hold_and_what_is_no_smaller_is_not_looked_at():
    assert chosen(Ladder(*RISING), max_bytes=750, max_fall=0.5) == 5
    assert chosen(Ladder(*RISING), max_bytes=450, max_fall=0.5) == 6  # shows that it cannot be kept
    ladder = Ladder(*RISING)
    assert chosen(ladder, max_fall=0.5, below=600) == 5
    assert min(ladder.measured) == 5


def test_distances_go_through_whatever_a_model_returns():
    x = torch.tensor([0.0, 2.0])
    nested = {"logits": x, "rest": (x, [torch.tensor([1, 2])])}
    other = {"logits": x + 1, "rest": (x, [torch.tensor([5, 5])])}
    assert squared_distance(other, nested) == 1.0
    assert squared_distance(nested, nested) == 0.0


def test_training_the_values_brings_the_answers_nearer_and_packs_what_was_judged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 3))
    batches = [(torch.randn(64, 12), None) for _ in range(4)]

    @torch.no_grad()
    def near(small):
        return -float(sum(squared_distance(small(x), model(x)) for x, _ in batches))

    plain, trained = (Judge(model, model, batches, near, How(steps=n, lr=1e-2), {}) for n in (0, 40))
    assert trained.metric(trained.last) > plain.metric(plain.last) + 0.01
    assert near(trained.model(trained.last)) == trained.metric(trained.last)


def test_frozen_parameters_share_values_too_and_stay_frozen():
    model = nn.Sequential(nn.Linear(12, 30), nn.Linear(30, 3)).requires_grad_(False)
    judge = Judge(model, model, [(torch.randn(8, 12), None)], lambda m: 1.0, How(steps=2), {"a": "b"})
    assert judge.metric(judge.last) == 1.0
    assert not any(p.requires_grad for p in model.parameters())
    assert judge.bits(0) == dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias"), 8)
