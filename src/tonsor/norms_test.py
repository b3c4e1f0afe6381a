import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tonsor.norms import ROW, SHORT, joint_norm
from tonsor.sharded import by_mesh, over_mesh

ORDERS = [0, 0.5, 1, 1.5, 2, 3, 4, math.inf, -math.inf, -1]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128]


def oracle(tensors, order):
    """Return the norm by its definition, in NumPy's longest floating type."""
    wide = [t.detach().to(torch.complex128).reshape(-1).numpy() for t in tensors]
    sizes = np.abs(np.concatenate(wide)).astype(np.longdouble)
    if math.isinf(order):
        return float(sizes.max() if order > 0 else sizes.min())
    return float((sizes != 0).sum() if order == 0 else (sizes**order).sum() ** (np.longdouble(1) / order))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_is_its_definition(order, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = [5, 3, SHORT - 1, SHORT, 2 * SHORT + 1, 700]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float32).to(dtype) for size in sizes]
    tensors[0][1:] = tensors[0][0]
    got = joint_norm(tensors, ord=order)
    assert got.dtype is (torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32)
    assert got.item() == pytest.approx(oracle(tensors, order), rel=2e-6)


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    is_joined=st.booleans(),
)
def test_neighbours_in_one_buffer_have_the_norm_of_tensors_apart(sizes, seed, is_joined):
    buffer = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed))
    parts = list(buffer.split(sizes))
    given = parts[::-1] if is_joined else [part.clone() for part in parts]
    assert joint_norm(given).item() == pytest.approx(buffer.double().norm().item(), rel=1e-6)


def test_types_of_one_list_are_measured_together():
    tensors = [torch.tensor([2.0], dtype=dtype) for dtype in DTYPES]
    assert joint_norm(tensors).item() == pytest.approx(2 * len(DTYPES) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_block_by_block(dtype, monkeypatch):
    monkeypatch.setattr("tonsor.norms.BLOCK", 2 * SHORT)
    tensor = torch.full((5 * SHORT + 77,), 300.0, dtype=dtype)
    seen = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype is torch.float32:
                seen.append(out.untyped_storage().nbytes())
            return out

    with Sizes():
        norm = joint_norm([tensor])
    assert norm.item() == pytest.approx(300 * tensor.numel() ** 0.5, rel=1e-6)
    assert seen
    assert max(seen) == 4 * 2 * SHORT


@pytest.mark.parametrize("turn", [lambda t: t.t(), lambda t: t[:, ::2], lambda t: t.expand(3, 200, 300)])
def test_any_layout_is_measured(turn):
    tensor = turn(torch.randn(200, 300))
    assert joint_norm([tensor]).item() == pytest.approx(oracle([tensor], 2), rel=1e-6)


def test_channels_last_is_measured_without_a_copy():
    tensor = torch.randn(8, 64, 16, 16).to(memory_format=torch.channels_last)
    assert joint_norm([tensor]).item() == pytest.approx(oracle([tensor], 2), rel=1e-6)


@pytest.mark.parametrize("order", [1.5, 2, 3, 4])
@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e-13, 1e12, 1e30])
def test_powers_beyond_float32_are_repaired(order, size):
    tensors = [torch.full((ROW,), size), torch.tensor([4 * size])]
    assert joint_norm(tensors, ord=order).item() == pytest.approx(oracle(tensors, order), rel=2e-5)


@pytest.mark.parametrize("order", [1, 2, 3, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_a_nan_is_a_nan_and_an_infinity_infinite(order, dtype):
    for sizes in ([3, 4], [3 * SHORT, 5]):
        tensors = [torch.ones(size, dtype=dtype) for size in sizes]
        tensors[0][1] = math.inf
        assert joint_norm(tensors, ord=order) == math.inf
        tensors[1][0] = math.nan
        assert joint_norm(tensors, ord=order).isnan()


def test_nothing_has_no_norm():
    assert joint_norm([]) == 0
    for order in (0, 1, 2, math.inf):
        assert joint_norm([torch.empty(0), torch.empty(0, 3)], ord=order) == 0
        assert joint_norm([torch.zeros(3), torch.empty(0)], ord=order) == 0
    assert joint_norm([torch.tensor([2.0]), torch.empty(0)], ord=-math.inf) == 2


def test_an_order_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="ord must be a number, inf or -inf; got nan"):
        joint_norm([torch.ones(1)], ord=math.nan)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_no_value_is_looked_at_where_that_would_wait(device, order):
    with FakeTensorMode():
        tensors = [torch.zeros(3, device=device), torch.zeros(100, 100, device=device)]
        assert joint_norm(tensors, ord=order).shape == ()


def test_the_norm_can_be_compiled_whole():
    compiled = torch.compile(joint_norm, backend="eager", fullgraph=True)
    tensors = [torch.full((3,), 2.0), torch.full((100, 100), 0.5)]
    assert compiled(tensors).item() == pytest.approx(oracle(tensors, 2), rel=1e-6)


class Mesh:
    """A mesh of two by three processes, without the processes."""

    ndim = 2

    def size(self, dim):
        return (2, 3)[dim]


def test_what_a_mesh_does_not_shard_counts_once(monkeypatch):
    sent = []
    monkeypatch.setattr(
        "tonsor.sharded._reduced",
        lambda mesh, value, spread, how: sent.append((value.item(), spread)) or value,
    )
    over_mesh(Mesh(), [((1,), torch.tensor(5.0)), ((), torch.tensor(6.0))], "sum")
    over_mesh(Mesh(), [((1,), torch.tensor(5.0)), ((0,), torch.tensor(6.0))], "max")
    assert sent == [(5 + 6 / 3, [1]), (6, [0, 1])]


def test_plain_tensors_need_no_mesh():
    assert list(by_mesh([torch.zeros(1), torch.nn.Parameter(torch.zeros(1))])) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fill", ["normal", "constant"])
def test_an_embedding_of_38_million_elements_is_right_to_a_millionth(dtype, fill):
    tensor = torch.full((50257, 768), 0.1) if fill == "constant" else torch.randn(50257, 768)
    tensor = tensor.to(dtype)
    exact = sum(rows.double().square().sum() for rows in tensor.split(1000)).sqrt()
    assert joint_norm([tensor]).item() == pytest.approx(exact.item(), rel=1e-6)
