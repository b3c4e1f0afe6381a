"""Importances of gradient and movement against the least-squares gradient in closed form."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import (
    Movement,
    Pruner,
    collect,
    find_masks,
    gradient,
    movement,
    needs,
    obd,
    snip,
    taylor,
    taylor_squared,
)

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 5))
BATCHES = [(RNG.normal(size=(n, 5)), RNG.normal(size=(n, 3))) for n in (4, 7)]


def pulls(batches=BATCHES):
    """Return the gradient of the mean squared error of each batch."""
    return [2 / y.size * (x @ WEIGHT.T - y).T @ x for x, y in batches]


def regression():
    model = nn.Linear(5, 3, bias=False).double()
    model.weight.data = torch.tensor(WEIGHT)
    return model


def data(batches=BATCHES):
    return [(torch.tensor(x), torch.tensor(y)) for x, y in batches]


def scored(importance, batches=BATCHES):
    model = regression()
    names = needs(importance)
    stats = collect(model, data(batches), names=names, loss=nn.functional.mse_loss)["weight"]
    return importance(model.weight, *[stats[name] for name in names]).numpy()


ORACLES = {
    gradient: lambda: np.abs(np.mean(pulls(), 0)),
    taylor: lambda: np.abs(WEIGHT * np.mean(pulls(), 0)),
    snip: lambda: np.abs(WEIGHT * np.mean(pulls(), 0)),
    taylor_squared: lambda: np.mean([(WEIGHT * g) ** 2 for g in pulls()], 0),
    movement: lambda: -WEIGHT * np.mean(pulls(), 0),
}


@pytest.mark.parametrize("importance", ORACLES, ids=lambda f: f.__name__)
def test_the_score_is_that_of_the_gradient_in_closed_form(importance):
    np.testing.assert_allclose(scored(importance), ORACLES[importance](), rtol=1e-10)


@pytest.mark.parametrize("sizes", [(11,), (4, 7), (1,) * 11, (10, 1)])
def test_obd_squares_the_gradient_of_each_sample_however_they_are_batched(sizes):
    x, y = (np.concatenate(part) for part in zip(*BATCHES, strict=True))
    alone = [(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    cuts = np.cumsum(sizes)[:-1]
    batches = list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))
    oracle = WEIGHT**2 / 2 * np.mean([g**2 for g in pulls(alone)], 0)
    np.testing.assert_allclose(scored(obd, batches), oracle, rtol=1e-10)


@pytest.mark.slow
def test_the_fisher_of_a_convolutional_net_is_that_of_mapped_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    model.double().eval()
    x, y = torch.randn(9, 2, 4, 4).double(), torch.randint(4, (9,))

    def loss_of_one(parameters, image, label):
        output = torch.func.functional_call(model, parameters, image.unsqueeze(0))
        return nn.functional.cross_entropy(output, label.unsqueeze(0))

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    alone = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0))(parameters, x, y)
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    found = collect(model, batches, names=["fisher"], loss=nn.functional.cross_entropy)
    for name, stats in found.items():
        torch.testing.assert_close(stats["fisher"], alone[name].square().mean(0))


def test_samples_are_cut_from_inputs_of_any_form():
    model = nn.Bilinear(3, 3, 2).double()
    first, second = torch.randn(2, 4, 3).double()
    gather = partial(collect, model, names=["fisher"], loss=lambda output, _: output.square().sum())
    expected = gather([((first[i : i + 1], second[i : i + 1]), None) for i in range(4)])
    for batch in ((first, second), {"input1": first, "input2": second}):
        torch.testing.assert_close(gather([(batch, None)]), expected)


def test_a_batch_without_a_tensor_cannot_be_cut():
    with pytest.raises(ValueError, match=r"cannot be cut into samples.*got int"):
        collect(regression(), [(3, None)], names=["fisher"], loss=nn.functional.mse_loss)


def test_the_first_order_change_is_that_of_the_loss():
    """On a loss that is linear in the weights, taylor is the change itself, weight by weight."""
    weight, slope = torch.tensor(WEIGHT[0]), torch.tensor(WEIGHT[1])
    changes = [float(((weight * (torch.arange(5) != j)) - weight) @ slope) for j in range(5)]
    np.testing.assert_allclose(taylor(weight, slope), np.abs(changes), rtol=1e-12)


def descend(weight, steps, *, lr=0.1):
    """Yield the gradient of (w - 1)^2 before each step of descent, with the weight as it stands then."""
    for _ in range(steps):
        weight.grad = 2 * (weight.detach() - 1)
        yield weight.detach().clone(), weight.grad.clone()
        weight.data -= lr * weight.grad


def test_movement_adds_up_the_products_of_the_steps_as_they_were():
    weight = torch.tensor([3.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    moved, products = Movement({"w": weight}), []
    for before, pull in descend(weight, 5):
        moved.observe()
        products.append((before * pull).numpy())
    scores = movement(weight, moved.stats()["w"]["weight_gradient"])
    np.testing.assert_allclose(scores, -np.mean(products, 0), rtol=1e-12)
    assert scores[1] > 0 > scores[0]  # what grows stays before what shrinks, although it is smaller


def test_movement_over_a_pass_without_steps_is_what_is_collected():
    model = regression()
    moved = Movement(dict(model.named_parameters()))
    for x, y in data():
        model.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        moved.observe()
    static = collect(model, data(), names=needs(movement), loss=nn.functional.mse_loss)
    torch.testing.assert_close(moved.stats(), static)


def test_movement_resumed_is_movement_continued_and_guides_a_pruner():
    weight = torch.tensor([3.0, 0.5, -1.0, 2.0], requires_grad=True)
    moved = Movement({"w": weight})
    for number, _ in enumerate(descend(weight, 6)):
        if number == 3:
            state, moved = moved.state_dict(), Movement({"w": weight})
            moved.load_state_dict(state)
        moved.observe()
    assert moved.steps == 6
    find = partial(find_masks, importance=movement)
    pruner = Pruner({"w": weight}, find, schedule=lambda step: 0.5, collect=moved.stats)
    pruner.step()
    assert pruner.masks["w"].tolist() == [False, True, True, False]


def test_movement_keeps_what_is_not_finite_out_and_missing_gradients_too():
    weight, idle = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    moved = Movement({"w": weight, "idle": idle})
    weight.grad = torch.tensor([float("inf"), 2.0])
    moved.observe()
    assert moved.stats()["w"]["weight_gradient"].tolist() == [0.0, 2.0]
    assert moved.stats()["idle"]["weight_gradient"].tolist() == [0.0]


def test_movement_tells_a_mistake_and_takes_nothing():
    moved = Movement({"w": torch.ones(2)})
    with pytest.raises(ValueError, match="no step was observed"):
        moved.stats()
    for sums, says in (
        ({"v": torch.ones(2)}, "unknown weight 'v'"),
        ({}, r"sum of 'w' of shape \(2,\); got none"),
        ({"w": torch.ones(3)}, r"got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=says):
            moved.load_state_dict({"sums": sums, "steps": 4})
    assert moved.steps == 0
