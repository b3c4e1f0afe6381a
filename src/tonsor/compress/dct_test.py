import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Comm, DCTTopK, TopK
from tonsor.compress import tiling as room
from tonsor.compress.tiling import Tiling, cosines
from tonsor.compress.workers_test import SIZES, bucket, same, together


def basis(n):
    """Return the transform by its definition, sum by sum."""
    rows = [[np.cos(np.pi * k * (i + 0.5) / n) for i in range(n)] for k in range(n)]
    return np.array(rows) * np.where(np.arange(n) == 0, (1 / n) ** 0.5, (2 / n) ** 0.5)[:, None]


def sizes_of(length, tile):
    pieces = -(-length // tile)
    return pieces, -(-length // pieces)


def coefficients(grad, tile, density):
    """Return the largest coefficients of each tile, the others zero, in float64, in place in the matrix."""
    matrix = grad.double().numpy().reshape(grad.shape[0], -1)
    (down, height), (across, width) = (sizes_of(length, tile) for length in matrix.shape)
    padded = np.zeros((down * height, across * width))
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    left, right = basis(height), basis(width)
    out = np.zeros_like(padded)
    for row in range(0, len(padded), height):
        for column in range(0, padded.shape[1], width):
            block = left @ padded[row : row + height, column : column + width] @ right.T
            flat = block.reshape(-1)
            top = np.argsort(-np.abs(flat), kind="stable")[: max(1, round(density * flat.size))]
            chosen = np.zeros_like(flat)
            chosen[top] = flat[top]
            out[row : row + height, column : column + width] = left.T @ chosen.reshape(height, width) @ right
    return out[: matrix.shape[0], : matrix.shape[1]].reshape(grad.shape)


@settings(max_examples=30)
@given(
    shape=st.sampled_from([(12, 30), (7, 13), (33, 5, 3), (6, 4, 3, 3), (1, 90)]),
    tile=st.sampled_from([1, 4, 8, 64]),
    density=st.sampled_from([0.01, 0.1]),
    seed=st.integers(0, 99),
    size=st.sampled_from(SIZES),
)
def test_the_mean_is_that_of_the_largest_coefficients(shape, tile, density, seed, size):
    grads = [bucket(seed + rank, shapes={"w": shape}) for rank in range(size)]
    got = together([DCTTopK(density=density, tile=tile)] * size, grads)
    if torch.equal(got[0].sent["w"], grads[0]["w"]):
        assert tile < 8  # one coefficient a tile is then too many
        return
    want = [coefficients(each["w"], tile, density) for each in grads]
    np.testing.assert_allclose(got[0].mean["w"].numpy(), sum(want) / size, atol=1e-5)
    np.testing.assert_allclose(got[-1].sent["w"].numpy(), want[-1], atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_the_basis_is_that_of_the_definition(size):
    np.testing.assert_allclose(
        cosines(size, torch.empty(0, dtype=torch.float64)).numpy(), basis(size), atol=1e-12
    )


@settings(max_examples=30)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    band=st.sampled_from([1, 90, 1 << 18]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_what_is_cut_and_transformed_comes_back_with_its_length(rows, columns, height, width, band):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tiling = Tiling(rows, columns, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "BAND", band)
        apart = torch.cat(list(tiling.apart(matrix)))
        back = tiling.together(apart)
    assert apart.shape == (tiling.tiles, height * width)
    torch.testing.assert_close(apart.norm(), matrix.norm())
    torch.testing.assert_close(back, matrix)


def test_what_is_smooth_needs_fewer_coefficients_than_elements():
    line = torch.linspace(0, 3, 128)
    grads = {"w": torch.outer(line.cos(), line.sin())}
    by_frequency, by_place = (rule(density=0.01)(grads, Comm()).sent["w"] for rule in (DCTTopK, TopK))
    norm = grads["w"].norm()
    assert (grads["w"] - by_frequency).norm() < 0.01 * norm
    assert (grads["w"] - by_place).norm() > 0.9 * norm


def test_with_momentum_the_rest_decays_and_waits_for_its_turn():
    rule = DCTTopK(density=0.02, tile=16, momentum=0.9)
    kept = np.zeros((16, 16))
    for step in range(5):
        grads = bucket(step, shapes={"w": (16, 16)})
        wanted = 0.9 * kept + grads["w"].double().numpy()
        sent = coefficients(torch.from_numpy(wanted), 16, 0.02)
        kept = wanted - sent
        np.testing.assert_allclose(rule(grads, Comm()).sent["w"].numpy(), sent, atol=1e-5)
        np.testing.assert_allclose(rule.state_dict()["residuals"]["w"].numpy(), kept, atol=1e-5)


def test_a_run_with_momentum_is_resumed_bit_for_bit_and_a_bad_or_empty_step_leaves_no_trace():
    went_on, resumed = DCTTopK(momentum=0.9, bits=4), DCTTopK(momentum=0.9, bits=4)
    for step in range(3):
        went_on(bucket(step), Comm())
    resumed.load_state_dict(went_on.state_dict())
    resumed({name: torch.full_like(grad, torch.inf) for name, grad in bucket(0).items()}, Comm())
    resumed({name: torch.zeros_like(grad) for name, grad in bucket(0).items()}, Comm())
    for step in range(3, 6):
        assert same(went_on(bucket(step), Comm()).mean, resumed(bucket(step), Comm()).mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coefficients_of_half_precision_neither_overflow_nor_are_kept_in_it(dtype):
    grads = {"w": torch.full((64, 64), 6e4, dtype=dtype)}  # the first coefficient is 64 times that
    rule = DCTTopK(momentum=0.5)
    torch.testing.assert_close(rule(grads, Comm()).mean["w"], grads["w"])
    assert rule.state_dict()["residuals"]["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("tuned", "says"),
    [
        ({"density": 0}, r"density must lie in \(0, 1\]; got 0"),
        ({"tile": 0}, "tile must be at least 1; got 0"),
        ({"momentum": 1.1}, r"momentum must lie in \[0, 1\]; got 1.1"),
        ({"bits": 0}, "bits must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(tuned, says):
    with pytest.raises(ValueError, match=says):
        DCTTopK(**tuned)


def test_a_state_of_another_shape_is_refused():
    rule = DCTTopK(momentum=0.5)
    rule({"w": torch.ones(2, 3)}, Comm())
    with pytest.raises(ValueError, match=r"'w' has shape \(2, 3\), its gradient \(3, 2\)"):
        rule({"w": torch.ones(3, 2)}, Comm())
