import pytest
import torch
from torch import nn

from tonsor.shrink.proof import Unequal, prove


class Says(nn.Module):
    """Return what a function makes of the input."""

    def __init__(self, say):
        super().__init__()
        self.say = say

    def forward(self, x):
        return self.say(x)


EXAMPLE = ((torch.linspace(-1, 1, 6).reshape(2, 3),), {})


def compared(a, b, example=EXAMPLE):
    return prove(Says(a), Says(b), example)


def test_equal_models_are_equal_and_rounding_is_measured_as_a_share_of_the_largest_output():
    assert compared(lambda x: {"y": x, "n": 3}, lambda x: {"y": x, "n": 3}) == 0.0
    got = compared(lambda x: torch.tensor([1000.0, 0.0]), lambda x: torch.tensor([1000.0, 0.001]))
    assert got == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda x: x * 1.0001, r"output 0 differs .* by 1.0e-04"),
        (lambda x: x[:1], r"output 0 has shape \(1, 3\) instead of \(2, 3\)"),
        (lambda x: (x, x), "returns 2 values instead of 1"),
        (lambda x: x / 0.0, "output 0 differs"),
        (lambda x: 3, "output 0 is 3"),
        (lambda x: x.view(7), "does not run: in its forward: shape '.7.' is invalid"),
    ],
)
def test_what_differs_is_said(other, match):
    with pytest.raises(Unequal, match=match):
        compared(lambda x: x, other)


def test_a_difference_that_the_example_does_not_show_is_found_by_random_inputs():
    zeros = ((torch.zeros(2, 3),), {})
    with pytest.raises(Unequal):
        compared(lambda x: x, lambda x: 2 * x, zeros)


def test_what_is_not_a_number_in_both_is_equal_and_in_one_is_not():
    nan = float("nan")
    assert compared(lambda x: x * nan, lambda x: x * nan) == 0.0
    with pytest.raises(Unequal):
        compared(lambda x: x, lambda x: x * nan)


def test_integers_are_permuted_so_that_indices_stay_in_range():
    seen = []

    def looked(x):
        seen.append(x.flatten().sort().values.tolist())
        return torch.arange(9.0)[x]

    compared(looked, looked, ((torch.tensor([[8, 1], [1, 0]]),), {}))
    assert seen == [[0, 1, 1, 8]] * 6


def test_a_model_that_refuses_random_numbers_is_judged_by_the_example():
    def choosy(x):
        if float(x.max()) != 1.0:
            raise ValueError("these are no probabilities")
        return x

    assert compared(choosy, choosy) == 0.0


def test_random_numbers_inside_the_model_are_the_same_for_both_and_none_are_used_up():
    before = torch.random.get_rng_state()
    assert compared(lambda x: x + torch.rand(3), lambda x: x + torch.rand(3)) == 0.0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_that_makes_much_of_its_roundings_is_compared_in_float64():
    class Steep(nn.Module):
        def __init__(self, order):
            super().__init__()
            torch.manual_seed(0)
            self.rows = nn.Linear(64, 64)
            self.order = order

        def forward(self, x):
            total = torch.zeros(())
            for place in self.order:
                total = total + self.rows(x)[:, place]
            return torch.sin(1e4 * total)

    example = ((torch.randn(4, 64),), {})
    forth, back = torch.arange(64), torch.arange(63, -1, -1)
    assert compared_in(torch.float32, Steep, forth, back, example) > 1e-5
    assert prove(Steep(forth), Steep(back), example) < 1e-10


def compared_in(dtype, make, a, b, example):
    """Return the largest difference that is seen without more digits."""
    x = example[0][0].to(dtype)
    with torch.no_grad():
        got, expected = make(a).to(dtype)(x), make(b).to(dtype)(x)
    return float((got - expected).abs().max() / expected.abs().max())


def test_a_model_that_cannot_be_brought_to_float64_is_judged_as_it_is():
    class Narrow(nn.Module):
        def __init__(self, off):
            super().__init__()
            self.scale, self.off = nn.Parameter(torch.ones(3, 3)), off

        def forward(self, x):
            return x.float() @ self.scale + self.off

    with pytest.raises(Unequal, match="differs from the masked model's by"):
        prove(Narrow(0.0), Narrow(1e-3), ((torch.ones(2, 3),), {}))
