import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from tonsor.pack import SHARINGS, Centroids, finetune_, pack, share, unpack


def example():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight[model[0].weight.abs() < 0.15] = 0
    inputs = torch.randn(200, 6)
    return model, inputs, (inputs[:, :3] + 0.3 * torch.randn(200, 3)).argmax(1)


@pytest.mark.parametrize("name", SHARINGS)
def test_gradients_of_a_table_are_those_of_autograd_from_the_definition(name):
    model, inputs, labels = example()
    parameters = dict(model.named_parameters())
    shared = {n: SHARINGS[name](parameters[n], bits=3) for n in ("0.weight", "3.weight")}
    centroids = Centroids(parameters, shared)
    model.eval()
    cross_entropy(model(inputs), labels).backward()
    centroids.gather()
    leaves = {n: s.learned.clone().requires_grad_() for n, s in shared.items()}
    weights = {}
    for n, s in shared.items():
        if name == "kmeans":
            table = torch.cat([torch.zeros(1), leaves[n][0]])
            weights[n] = table[s.codes.long()]
        else:  # code 2k - 1 is k steps up, code 2k is k steps down
            multiples = torch.where(s.codes % 2 == 1, (s.codes + 1) // 2, -(s.codes // 2).int())
            weights[n] = leaves[n] * multiples
    hidden = (inputs @ weights["0.weight"].T + model[0].bias).relu()
    cross_entropy(hidden @ weights["3.weight"].T + model[3].bias, labels).backward()
    for got, leaf in zip(centroids.parameters(), leaves.values(), strict=True):
        torch.testing.assert_close(got.grad, leaf.grad, rtol=1e-5, atol=1e-6)


def test_training_finds_the_values_that_the_data_come_from_and_packs_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, 1, -1, -1, 0, 0, 1]]))
        model[1].bias.fill_(0.25)
    inputs = torch.randn(64, 8)
    targets = inputs @ torch.tensor([[0.5, 0.5, 0.5, -2, -2, 0, 0, 0.5]]).T + 0.25
    model.train()
    done = finetune_(model, share(model, bits=2), [(inputs, targets)] * 150, mse_loss, lr=0.1, steps=150)
    assert model.training
    torch.testing.assert_close(done["1.weight"].learned, torch.tensor([[-2.0, 0.5]]), rtol=0.01, atol=0)
    assert model[1].bias == 0.25
    state = unpack(pack(model, shared=done))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_resume_is_continue():
    def run(centroids, weight, steps):
        for step in steps:
            weight.grad = torch.full_like(weight, 0.1 * (step + 1))
            centroids.gather()
            with torch.no_grad():
                for values in centroids.parameters():
                    values.sub_(0.5 * values.grad)
            centroids.write()

    weights = [nn.Parameter(torch.arange(12.0).view(3, 4)) for _ in range(2)]
    shared = share({"w": weights[0]}, bits=3)
    whole, resumed = (Centroids({"w": w}, shared) for w in weights)
    run(whole, weights[0], range(6))
    run(resumed, weights[1], range(3))
    state = resumed.state_dict()
    with torch.no_grad():
        weights[1].zero_()
    again = Centroids({"w": weights[1]}, shared)
    again.load_state_dict(state)
    run(again, weights[1], range(3, 6))
    assert torch.equal(*weights)


def test_batches_may_come_from_a_generator_that_switches_gradients_off():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    dense = copy.deepcopy(model)
    x = torch.randn(32, 4)

    def batches():
        with torch.no_grad():
            for _ in range(30):
                yield x, dense(x)

    shared = share(model, bits=2)
    before = nn.functional.mse_loss(torch.func.functional_call(model, _values(shared), x), dense(x))
    finetune_(model, shared, batches(), nn.functional.mse_loss, lr=0.01, steps=30)
    assert nn.functional.mse_loss(model(x), dense(x)) < before


def _values(shared):
    return {name: each.values() for name, each in shared.items()}


def test_a_weight_without_a_gradient_leaves_its_values_alone():
    model, inputs, labels = example()
    model[0].weight.requires_grad_(False)
    shared = share(model, bits=3)
    done = finetune_(model, shared, [(inputs, labels)] * 3, cross_entropy)
    assert torch.equal(done["0.weight"].values(), shared["0.weight"].values())
    assert not torch.equal(done["3.weight"].values(), shared["3.weight"].values())


def test_a_tied_weight_is_trained_once_from_both_places():
    layer = nn.Linear(4, 4, bias=False)
    twice = nn.Sequential(layer, layer)
    centroids = Centroids(dict(twice.named_parameters()), share(twice, bits=2))
    mse_loss(twice(torch.ones(1, 4)), torch.ones(1, 4)).backward()
    centroids.gather()
    (values,) = centroids.parameters()
    assert values.grad.sum() == pytest.approx(float(layer.weight.grad[layer.weight != 0].sum()), abs=1e-6)


def test_mistakes_are_told_before_a_weight_is_touched():
    model, inputs, labels = example()
    shared = share(model, bits=3)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"unknown parameter '0\.weight'"):
        Centroids({"1.weight": model[0].weight}, shared)
    with pytest.raises(ValueError, match=r"'0\.weight' has shape"):
        Centroids({"0.weight": torch.ones(2), "3.weight": model[3].weight}, shared)
    with pytest.raises(ValueError, match="of other weights, or of other bits"):
        Centroids(dict(model.named_parameters()), share(model, bits=3)).load_state_dict({})
    model[0].weight.data = before
    with pytest.raises(ValueError, match=r"the loss of batch 0 is nan"):
        finetune_(model, shared, [(inputs * float("nan"), labels)], cross_entropy)
