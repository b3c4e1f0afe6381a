import pytest
import torch
from torch import nn

from tonsor.report import activation_bytes, measure_states, weight_bytes

WIDE = 1000  # floats of a sample


class Chain(nn.Module):
    """Double the inputs some times; keep what came first, or let it go."""

    def __init__(self, times, *, keep=False, inplace=False):
        super().__init__()
        self.times, self.keep, self.inplace = times, keep, inplace

    def forward(self, x):
        first = x = x * 2
        if not self.keep:
            first = 0
        for _ in range(self.times):
            x = x.mul_(2) if self.inplace else x * 2
        return x + first


@pytest.mark.parametrize(
    ("model", "most"),
    [
        (Chain(5), 2),  # one goes in, one comes out
        (Chain(5, keep=True), 3),  # and the first is held
        (Chain(5, inplace=True), 2),  # the last sum alone is new
        (nn.Flatten(), 0),  # a view has no memory of its own
        (nn.Identity(), 0),
    ],
)
def test_what_a_pass_holds_at_its_most_is_counted(model, most):
    found = activation_bytes(model, torch.ones(1, WIDE), batches=(1, 3))
    assert found == {"1": most * 4 * WIDE, "3": most * 4 * WIDE * 3}


def test_what_a_layer_keeps_from_its_first_call_does_not_count():
    class Keeps(nn.Module):
        kept = None

        def forward(self, x):
            if self.kept is None:
                self.kept = torch.zeros(10 * WIDE)
            return x * 2

    assert activation_bytes(Keeps(), torch.ones(1, WIDE), batches=(1,)) == {"1": 4 * WIDE}


def test_counting_leaves_the_model_as_it_was_and_counts_nothing_after():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = activation_bytes(model, torch.ones(2, 4), batches=(2,))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert activation_bytes(model, torch.ones(2, 4), batches=(2,)) == first


def test_tied_weights_and_buffers_are_held_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    model[1].weight = model[0].weight
    assert weight_bytes(model) == 4 * (64 + 4 * 8) + 8  # scale, shift, mean, variance, and the count


def test_known_figures_stand_in_place_of_counted_ones():
    models = {"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)}
    known = {"b": {"macs": 1, "activation_bytes": None}}
    found = measure_states(models, torch.ones(1, 3), batches=(2,), rounds=3, known=known)
    assert (found["a"]["macs"], found["b"]["macs"]) == (6, 1)
    assert (found["a"]["activation_bytes"], found["b"]["activation_bytes"]) == ({"2": 16}, None)


def test_samples_a_second_are_the_batch_over_the_latency():
    found = measure_states({"a": nn.Linear(3, 2)}, torch.ones(1, 3), batches=(1, 16), rounds=5)["a"]
    for batch in (1, 16):
        time, speed = found["latency_ms"][str(batch)], found["samples_per_second"][str(batch)]
        for end, other in (("median", "median"), ("low", "high"), ("high", "low")):
            assert speed[end] * time[other] == pytest.approx(1000 * batch)
        assert (time["ratio_low"], time["ratio"], speed["ratio_high"]) == (
            1,
            1,
            1,
        )  # of the first over itself
