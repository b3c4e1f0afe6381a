"""Recalibration gives the statistics of all samples together, and touches nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import apply_masks_, find_masks, recalibrate_


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pairs(*inputs):
    return [(x, None) for x in inputs]


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    )


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_the_statistics_are_those_of_all_samples_together_however_they_are_cut(momentum):
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, momentum=momentum))
    inputs = drawn(40, 5) * 2 + 1
    recalibrate_(model, pairs(inputs[:7], inputs[7:9], inputs[9:]))
    fed = model[0](inputs).detach().double().numpy()
    np.testing.assert_allclose(model[1].running_mean.numpy(), fed.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model[1].running_var.numpy(), fed.var(0, ddof=1), rtol=1e-5)
    assert model[1].momentum == momentum
    assert model[1].num_batches_tracked == 3


def test_one_batch_gives_what_torch_keeps_with_a_momentum_of_one_in_every_depth():
    model, other = convolutional(), convolutional()
    inputs = drawn(6, 2, 8, 8)
    recalibrate_(model, pairs(inputs))
    for module in other:
        module.train(isinstance(module, nn.BatchNorm2d))
        module.momentum = 1.0
    other(inputs)
    for place in (1, 5):
        torch.testing.assert_close(model[place].running_mean, other[place].running_mean)
        torch.testing.assert_close(model[place].running_var, other[place].running_var)


def test_what_was_remembered_before_does_not_count():
    model = convolutional()
    inputs = drawn(6, 2, 8, 8)
    recalibrate_(model, pairs(inputs))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model[1].running_mean.fill_(99)
    model[5].running_var.fill_(99)
    assert recalibrate_(model, pairs(inputs)) == ["1", "5"]
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_nothing_but_the_statistics_changes():
    model = convolutional().train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    recalibrate_(model, pairs(drawn(4, 2, 8, 8)))
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in model.named_parameters())
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in model[4].parameters()] == [False, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_after_an_error_all_is_as_before():
    model = convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        recalibrate_(model, [*pairs(drawn(4, 2, 8, 8)), *pairs(drawn(4, 1, 8, 8))])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model.training


def test_a_norm_that_is_called_twice_sees_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(x) + self.norm(x + 2)

    model, inputs = Twice(), drawn(9, 2)
    recalibrate_(model, pairs(inputs))
    both = torch.cat([inputs, inputs + 2]).double().numpy()
    np.testing.assert_allclose(model.norm.running_mean.numpy(), both.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.norm.running_var.numpy(), both.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)]
)
def test_a_model_without_running_statistics_needs_nothing(model):
    assert recalibrate_(model, pairs(drawn(3, 2))) == []


def test_no_batch_is_told():
    with pytest.raises(ValueError, match="no batch"):
        recalibrate_(nn.BatchNorm1d(2), [])


@pytest.mark.slow
def test_a_network_that_was_pruned_at_one_stroke_recognises_digits_again():
    torch.manual_seed(0)
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    inputs, targets = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    sizes = [(64, 128), (128, 64), (64, 64)]
    blocks = [m for a, b in sizes for m in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for batch in torch.arange(1200).repeat(8).split(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()

    def accuracy():
        return (model.eval()(inputs[1200:]).argmax(1) == targets[1200:]).double().mean().item()

    dense = accuracy()
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    apply_masks_(weights, find_masks(weights, 0.9))
    pruned = accuracy()
    recalibrate_(model, pairs(*inputs[:1200].split(50)))
    assert dense > 0.9
    assert pruned < 0.3
    assert accuracy() > 0.7


def test_half_precision_is_measured_in_full():
    model = nn.BatchNorm1d(2).bfloat16()
    inputs = (drawn(4000, 2) + 100).bfloat16()
    recalibrate_(model, pairs(inputs))
    assert model.running_mean.dtype is torch.bfloat16
    np.testing.assert_allclose(model.running_mean.float(), inputs.double().mean(0), rtol=4e-3)
