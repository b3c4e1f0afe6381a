import pytest
import torch

from tonsor.prune import eliminate, refit
from tonsor.prune.sparsegpt_test import lost, problem


def one_by_one(weight, gram, damping):
    """Return the order by trying every feature that is left, with a refit of the others each time."""
    ridge = damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    units, rows = weight.shape[1], weight.flatten(1)
    size = rows.shape[1] // units
    alive, turn = torch.ones(units, dtype=torch.bool), torch.zeros(units, dtype=torch.int64)
    for count in range(units):
        costs = {}
        for unit in alive.nonzero().flatten().tolist():
            stays = alive.clone()
            stays[unit] = False
            mask = stays.repeat_interleave(size).expand_as(rows)
            costs[unit] = lost(refit(rows, mask, gram, damping=damping), rows, gram + ridge)
        unit = min(costs, key=costs.get)
        alive[unit], turn[unit] = False, count
    return turn


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 2), (3, 4, 2, 2)])
def test_each_time_the_one_goes_whose_loss_costs_least(seed, shape):
    weight, gram = problem(shape[0], torch.Size(shape[1:]).numel(), seed)
    weight = weight.view(shape)
    assert torch.equal(eliminate(weight, gram, damping=0.01), one_by_one(weight, gram, 0.01))


def test_an_input_that_another_one_repeats_goes_first_however_large_its_weights():
    weight, gram = problem(3, 4)
    gram[1], gram[:, 1] = 2 * gram[0], 2 * gram[:, 0]
    gram[1, 1] = 4 * gram[0, 0]
    weight[:, :2] *= 100
    assert int(eliminate(weight, gram, damping=1e-9).argmin()) in (0, 1)


def test_groups_are_refused():
    with pytest.raises(ValueError, match=r"prune\.eliminate: .*got 2 groups"):
        eliminate(torch.ones(4, 2), torch.eye(2).repeat(2, 1, 1))
