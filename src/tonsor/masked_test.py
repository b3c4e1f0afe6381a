"""A removed weight has no gradient and no past, in every optimizer of torch."""

import inspect

import pytest
import torch

from tonsor.masked import clear_state_, mask_gradients_

OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
DENSE = {name: kind for name, kind in OPTIMIZERS.items() if name not in ("SparseAdam", "LBFGS")}
MORE = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True},
    "Adagrad": {"initial_accumulator_value": 0.5},
}
optimizers = pytest.mark.parametrize("name", DENSE)
MASK = torch.tensor([[True, False, True], [False, True, True]])


def trained(name, mask=None, steps=4):
    """Return a weight after some steps, with or without a mask that holds from the first."""
    weight = torch.linspace(-1, 1, 6).view(2, 3).requires_grad_()
    optimizer = DENSE[name]([weight], lr=0.01, **MORE.get(name, {}))
    if mask is not None:
        weight.data.masked_fill_(~mask, 0)
    step(weight, optimizer, mask, steps)
    return weight, optimizer


def step(weight, optimizer, mask, steps):
    masks = {} if mask is None else {"w": mask}
    for i in range(steps):
        weight.grad = torch.sin(torch.arange(6.0).view(2, 3) + i)
        mask_gradients_({"w": weight}, masks)
        optimizer.step()
        for m in masks.values():
            weight.data.masked_fill_(~m, 0)


def shaped(optimizer, weight):
    state = optimizer.state[weight]
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == (2, 3)}


@optimizers
def test_the_state_of_removed_weights_is_that_of_weights_that_were_never_there(name):
    weight, optimizer = trained(name)
    before = {key: value.clone() for key, value in shaped(optimizer, weight).items()}
    clear_state_(optimizer, {"w": weight}, {"w": MASK})
    fresh, never = trained(name, torch.zeros(2, 3) > 0)
    for key, value in shaped(optimizer, weight).items():
        assert torch.equal(value[MASK], before[key][MASK])
        # Adamax adds its eps to the state of a weight without gradient at every step.
        torch.testing.assert_close(value[~MASK], shaped(never, fresh)[key][~MASK], rtol=0, atol=1e-7)


# Muon orthogonalises the whole matrix, so that its zeros are held by the masks alone.
@pytest.mark.parametrize("name", sorted(DENSE.keys() - {"Muon"}))
def test_a_removed_weight_does_not_move_any_more_even_where_no_mask_is_applied(name):
    weight, optimizer = trained(name)
    weight.data.masked_fill_(~MASK, 0)
    clear_state_(optimizer, {"w": weight}, {"w": MASK})
    kept = weight.detach().clone()
    for i in range(5):
        weight.grad = torch.cos(torch.arange(6.0).view(2, 3) + i)
        mask_gradients_({"w": weight}, {"w": MASK})
        optimizer.step()
    assert (weight[~MASK] == 0).all()
    assert (weight[MASK] != kept[MASK]).all()


def test_an_optimizer_without_state_is_passed_over():
    weight = torch.ones(2, 3, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    clear_state_(optimizer, {"w": weight}, {"w": MASK})
    assert not optimizer.state


def test_counters_and_what_has_another_shape_are_left_alone():
    weight, optimizer = trained("Adafactor")
    before = {key: value.clone() for key, value in optimizer.state[weight].items()}
    clear_state_(optimizer, {"w": weight}, {"w": MASK})
    assert before["row_var"].abs().sum() > 0
    torch.testing.assert_close(optimizer.state[weight], before, rtol=0, atol=0)


def test_quantised_state_is_left_alone_because_its_code_0_is_no_zero():
    weight, optimizer = trained("SGD")
    optimizer.state[weight]["code"] = torch.full((2, 3), 7, dtype=torch.uint8)
    clear_state_(optimizer, {"w": weight}, {"w": MASK})
    assert (optimizer.state[weight]["code"] == 7).all()


def test_lbfgs_is_left_alone():
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight])
    optimizer.step(lambda: _backward(weight))
    before = optimizer.state[weight]["d"].clone()
    clear_state_(optimizer, {"w": weight}, {"w": torch.tensor([True, False])})
    assert torch.equal(optimizer.state[weight]["d"], before)
    assert before.any()


def _backward(weight):
    weight.grad = None
    loss = (weight**4).sum()
    loss.backward()
    return loss


def test_gradients_are_zeroed_whatever_they_are():
    weight = torch.ones(2, 3, requires_grad=True)
    weight.grad = torch.full((2, 3), float("nan"))
    mask_gradients_({"w": weight, "frozen": torch.ones(1)}, {"w": MASK, "frozen": torch.ones(1) > 0})
    assert (weight.grad[~MASK] == 0).all()
    assert weight.grad[MASK].isnan().all()


def test_a_sparse_gradient_is_masked_entry_by_entry():
    table = torch.nn.Embedding(3, 2, sparse=True)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    table(torch.tensor([1, 2, 1])).sum().backward()
    mask_gradients_({"w": table.weight}, {"w": mask})
    expected = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert torch.equal(table.weight.grad.to_dense(), expected)
