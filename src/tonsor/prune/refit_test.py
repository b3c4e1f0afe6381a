import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.prune import refit, refit_, retarget


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(count, features, seed=1):
    """Return correlated inputs with a mean that is not zero."""
    return drawn(count, features, seed=seed) @ drawn(features, features, seed=seed + 1) + 1


def least_squares(x, y, mask):
    """Return what NumPy finds for each row on the inputs that its mask keeps."""
    found = np.zeros(mask.shape)
    for row, stays in enumerate(mask.numpy()):
        if stays.any():
            found[row, stays] = np.linalg.lstsq(x[:, stays].numpy(), y[:, row].numpy(), rcond=None)[0]
    return torch.from_numpy(found)


def close(found, wanted, tolerance=1e-7):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@given(seed=st.integers(0, 999), density=st.floats(0, 1), is_iterated=st.booleans())
@settings(max_examples=50)
def test_each_row_is_what_least_squares_finds_on_its_mask(seed, density, is_iterated):
    x, weight = inputs(40, 7, seed), drawn(5, 7, seed=seed + 2)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(seed)) < density
    found = refit(weight, mask, x.T @ x / 40, damping=0.0, widest=0 if is_iterated else 99)
    close(found, least_squares(x, x @ weight.T, mask), 1e-4 if is_iterated else 1e-6)
    assert (found[~mask] == 0).all()


def test_weight_and_bias_together_are_what_least_squares_finds():
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    x, mask = inputs(50, 6), drawn(4, 6) > 0
    y = layer(x).detach()
    refit_(layer.weight, mask, x.T @ x / 50, bias=layer.bias, mean=x.mean(0), damping=0.0)
    ones = torch.cat([x, torch.ones(50, 1)], 1)
    wanted = least_squares(ones, y, torch.cat([mask, torch.ones(4, 1) > 0], 1))
    close(torch.cat([layer.weight, layer.bias[:, None]], 1).detach(), wanted)


def test_removed_inputs_share_one_factorisation_and_dead_rows_stay_zero():
    x, weight = inputs(40, 6), drawn(4, 6)
    mask = torch.tensor([True, False, True, True, False, True]).repeat(4, 1)
    mask[2] = False
    found = refit(weight, mask, x.T @ x / 40, damping=0.0)
    close(found, least_squares(x, x @ weight.T, mask))


def test_the_target_may_be_what_the_dense_inputs_gave():
    x, dense, weight = inputs(60, 5), inputs(60, 5, seed=7), drawn(3, 5)
    mask = drawn(3, 5, seed=4) > -0.5
    found = refit(weight, mask, x.T @ x / 60, cross=dense.T @ x / 60, damping=0.0)
    close(found, least_squares(x, dense @ weight.T, mask))


def test_a_retargeted_weight_does_from_the_current_inputs_what_the_dense_one_did():
    x, dense, weight = inputs(60, 5), inputs(60, 5, seed=7), drawn(3, 5)
    found = retarget(weight, x.T @ x / 60, dense.T @ x / 60, damping=0.0)
    close(found, least_squares(x, dense @ weight.T, torch.ones(3, 5) > 0))


def test_groups_are_refitted_each_on_its_own_inputs():
    first, second, weight = inputs(40, 4), inputs(40, 4, seed=5), drawn(6, 2, 2)
    mask = drawn(6, 2, 2, seed=3) > 0
    grams = torch.stack([first.T @ first, second.T @ second]) / 40
    found = refit(weight, mask, grams, damping=0.0).flatten(1)
    rows, stays = weight.flatten(1), mask.flatten(1)
    close(found[:3], least_squares(first, first @ rows[:3].T, stays[:3]))
    close(found[3:], least_squares(second, second @ rows[3:].T, stays[3:]))


@given(seed=st.integers(0, 999), damping=st.sampled_from([0.0, 0.01, 1.0]))
@settings(max_examples=50)
def test_a_refit_is_never_worse_than_the_mask_alone(seed, damping):
    x, weight = inputs(30, 6, seed), drawn(4, 6, seed=seed)
    mask = drawn(4, 6, seed=seed + 1) > 0
    gram = x.T @ x / 30

    def lost(new):
        change = (new - weight).double()
        ridge = damping * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
        return ((change @ (gram + ridge)) * change).sum()

    assert lost(refit(weight, mask, gram, damping=damping)) <= lost(weight * mask) * (1 + 1e-9)


def test_fewer_samples_than_features_are_healed_by_damping_and_refused_without():
    x, weight, mask = inputs(3, 8), drawn(2, 8), drawn(2, 8, seed=1) > -1
    with pytest.raises(ValueError, match=r"prune\.refit: the gram is not positive definite.*raise damping"):
        refit(weight, mask, x.T @ x / 3, damping=0.0)
    assert refit(weight, mask, x.T @ x / 3).isfinite().all()


def test_inputs_that_are_never_anything_leave_the_weights():
    weight, mask = drawn(2, 3), torch.tensor([[True, False, True]] * 2)
    close(refit(weight, mask, torch.zeros(3, 3)), weight * mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_type_of_the_weight_stays(dtype):
    x, weight = inputs(40, 5), drawn(3, 5).to(dtype)
    mask = drawn(3, 5, seed=2) > 0
    found = refit(weight, mask, (x.T @ x / 40).float())
    assert found.dtype is dtype
    close(found.double(), refit(weight.double(), mask, x.T @ x / 40), 2e-2 * float(weight.abs().max()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mask": torch.ones(2, 4) > 0}, r"mask must be boolean of shape \(2, 3\)"),
        ({"mask": torch.ones(2, 3)}, "must be boolean.*got torch.float32"),
        ({"gram": torch.eye(4)}, r"with 3 features; got \(4, 4\)"),
        ({"gram": torch.eye(3).repeat(3, 1, 1)}, r"got \(3, 3, 3\)"),
    ],
)
def test_a_mistake_is_told(wrong, says):
    given = {"weight": torch.ones(2, 3), "mask": torch.ones(2, 3) > 0, "gram": torch.eye(3), **wrong}
    with pytest.raises(ValueError, match=says):
        refit(*given.values())


def test_a_bias_without_the_mean_input_is_refused():
    with pytest.raises(ValueError, match="a bias needs the mean input"):
        refit_(torch.ones(2, 3), torch.ones(2, 3) > 0, torch.eye(3), bias=torch.zeros(2))
