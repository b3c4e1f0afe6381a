"""A pruner with a watch: what it sees, when, and that it is saved."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from tonsor.prune import DenseGradient, Pruner, Watch, find_masks, mask_gradients_
from tonsor.schedule import linear


class Moving:
    """A watch like that of movement pruning: it adds up weight times gradient over all steps."""

    def __init__(self, weights):
        self.weights = weights
        self.sums = {name: torch.zeros_like(w) for name, w in weights.items()}

    def observe(self):
        for name, weight in self.weights.items():
            self.sums[name] -= (weight * weight.grad).detach()

    def stats(self):
        return {name: {"movement": total} for name, total in self.sums.items()}

    def state_dict(self):
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state):
        self.sums = {name: total.clone() for name, total in state["sums"].items()}


def movement(weight, movement, /):
    return movement


def watched(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    find = partial(find_masks, importance=movement)
    ramp = partial(linear, final=0.6, start=4, stop=12)
    return model, weights, optimizer, Pruner(weights, find, schedule=ramp, every=4, collect=Moving(weights))


def watch_and_train(model, weights, optimizer, pruner, steps):
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        pruner.observe()
        mask_gradients_(weights, pruner.masks)
        optimizer.step()
        pruner.step(optimizer)


def test_a_watch_sees_every_gradient_before_it_is_masked():
    model, weights, optimizer, pruner = watched()
    seen = []
    pruner._collect.observe = lambda: seen.append(weights["0.weight"].grad.clone())
    watch_and_train(model, weights, optimizer, pruner, range(11))
    gone = ~pruner.masks["0.weight"]
    assert len(seen) == 11
    assert (seen[-1][gone] != 0).any()
    assert (weights["0.weight"].grad[gone] == 0).all()


def test_masks_are_found_by_what_was_watched():
    model, weights, optimizer, pruner = watched()
    watch_and_train(model, weights, optimizer, pruner, range(8))
    scores = {name: pruner._collect.sums[name] for name in weights}
    kept = torch.cat([scores[name][mask] for name, mask in pruner.masks.items()])
    gone = torch.cat([scores[name][~mask] for name, mask in pruner.masks.items()])
    assert pruner.sparsity == pytest.approx(0.3, abs=0.01)
    assert gone.max() <= kept.min()


@pytest.mark.parametrize("stopped", [3, 8, 10])
def test_what_a_watch_has_seen_is_saved_with_the_pruner(stopped):
    going = watched()
    watch_and_train(*going, range(stopped))
    kept = copy.deepcopy([part.state_dict() for part in (going[0], going[2], going[3])])
    watch_and_train(*going, range(stopped, 20))
    again = watched(seed=1)
    for part, state in zip((again[0], again[2], again[3]), kept, strict=True):
        part.load_state_dict(state)
    watch_and_train(*again, range(stopped, 20))
    torch.testing.assert_close(again[3].masks, going[3].masks)
    torch.testing.assert_close(again[0].state_dict(), going[0].state_dict(), rtol=0, atol=0)


def test_what_is_a_watch_is_known_by_its_methods():
    w = torch.ones(2, requires_grad=True)
    assert isinstance(DenseGradient({"w": w}), Watch)
    assert isinstance(Moving({"w": w}), Watch)
    assert not isinstance(dict, Watch)


def test_the_dense_gradient_adds_up_accumulation_and_takes_what_has_none_for_zero():
    table, unused = nn.Embedding(3, 2, sparse=True), torch.ones(2, requires_grad=True)
    watch = DenseGradient({"table": table.weight, "unused": unused})
    for _ in range(2):
        table(torch.tensor([1, 1, 2])).sum().backward()
        watch.observe()
    found = watch.stats()
    assert torch.equal(found["table"]["gradient"], torch.tensor([[0.0, 0.0], [4.0, 4.0], [2.0, 2.0]]))
    assert torch.equal(found["unused"]["gradient"], torch.zeros(2))
    with pytest.raises(ValueError, match="no gradient was seen"):
        watch.stats()
