import itertools
import platform

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.pack.sparse_compiled import FLAGS, Compiled, compiled, find_compiler, load
from tonsor.pack.sparse_rows import plain_product, product_, product_of_columns, rows_of


def sparse_weight(rows, features, density, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, features, generator=drawn)
    return weight * (torch.rand(rows, features, generator=drawn) < density)


def expected(weight, x, bias):
    """Return the product of columns in float64, by NumPy."""
    out = x.double().numpy() @ weight.double().numpy().T
    return torch.from_numpy(out + (0.0 if bias is None else bias.double().numpy()))


def assert_close(out, weight, x, bias):
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected(weight, x, bias), rtol=1e-5, atol=1e-4)


@pytest.fixture(params=["compiled", "plain"])
def either(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setitem(product_of_columns.__globals__, "compiled", lambda: Compiled(None, "none"))
    return request.param


@settings(max_examples=50)
@given(
    rows=st.integers(1, 70),
    features=st.integers(1, 70),
    columns=st.sampled_from([1, 2, 3, 15, 16, 17, 31, 33, 48, 63, 64, 65, 130]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    turned=st.booleans(),
    fed_turned=st.booleans(),
    biased=st.booleans(),
)
def test_the_kernel_is_the_product_in_double_precision(
    rows, features, columns, density, turned, fed_turned, biased
):
    weight = sparse_weight(rows, features, density)
    bias = torch.randn(rows) if biased else None
    x = torch.randn(features, columns).t() if fed_turned else torch.randn(columns, features)
    out = product_of_columns(rows_of(weight), x, bias, turned=turned)
    assert out.shape == (columns, rows)
    assert turned or out.is_contiguous()
    assert not turned or out.t().is_contiguous()
    assert_close(out, weight, x, bias)


@pytest.mark.parametrize("columns", [1, 5, 64])
def test_inputs_may_lie_anyhow_in_memory(either, columns):
    weight, bias = sparse_weight(20, 30, 0.3), torch.randn(20)
    rows = rows_of(weight)
    wide = torch.randn(2 * columns, 60)
    for x in (wide[::2, ::2], wide[:columns, :30], wide[:1, :30].expand(columns, 30), wide[:columns, 30:]):
        assert_close(product_of_columns(rows, x, bias), weight, x, bias)
        before = x.clone()
        product_of_columns(rows, x, bias)
        assert torch.equal(x, before)


def test_rows_may_be_empty_and_so_may_the_whole_weight(either):
    weight = sparse_weight(20, 30, 0.2)
    weight[::2] = 0
    x, bias = torch.randn(7, 30), torch.randn(20)
    assert_close(product_of_columns(rows_of(weight), x, bias), weight, x, bias)
    nothing = rows_of(torch.zeros(20, 30))
    assert torch.equal(product_of_columns(nothing, x, bias), bias.expand(7, 20))
    assert torch.equal(product_of_columns(nothing, x), torch.zeros(7, 20))
    assert product_of_columns(rows_of(weight), x[:0], bias).shape == (0, 20)


def test_memory_outside_of_the_result_is_left_alone():
    weight = sparse_weight(37, 30, 0.3)
    for columns in (1, 3, 17, 70):
        for turned in (False, True):
            room = torch.full((10 + columns * 37 + 10,), 7.0)
            inner = room[10:-10].view((37, columns) if turned else (columns, 37))
            product_(inner if turned else inner.t(), rows_of(weight), torch.randn(columns, 30).t())
            assert (room[:10] == 7).all()
            assert (room[-10:] == 7).all()


@pytest.mark.parametrize("features", [65536, 65537])
def test_an_index_has_16_bits_while_they_suffice(either, features):
    weight = torch.zeros(3, features)
    weight[0, 0] = weight[1, -1] = weight[2, 40000] = 2.0
    rows = rows_of(weight)
    assert rows.index.dtype == (torch.int16 if features == 65536 else torch.int32)
    assert rows.columns().tolist() == [0, features - 1, 40000]
    assert torch.equal(rows.dense(), weight)
    x = torch.arange(features, dtype=torch.float32).expand(20, -1)
    assert torch.equal(product_of_columns(rows, x)[5], torch.tensor([0.0, 2.0 * (features - 1), 80000.0]))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups_have_features_of_their_own(either, groups):
    weight = sparse_weight(12, 5, 0.5)
    rows = rows_of(weight, groups=groups)
    assert torch.equal(rows.dense(), weight)
    x = torch.randn(3, 5 * groups, 20)
    out = product_(torch.empty(3, 12, 20), rows, x)
    each = torch.einsum(
        "gok,ngkc->ngoc", weight.double().view(groups, -1, 5), x.double().view(3, groups, 5, 20)
    )
    torch.testing.assert_close(out.double(), each.flatten(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 16, 40, 64])
def test_features_may_start_anywhere(either, columns):
    weight = sparse_weight(18, 4, 0.7)
    x = torch.randn(2, 1, 200)
    starts = torch.tensor([0, 3, 100, 7], dtype=torch.int32)
    out = product_(torch.empty(2, 18, columns), rows_of(weight), x, None, starts)
    seen = torch.stack([x[:, 0, s : s + columns] for s in starts.tolist()], 1)
    torch.testing.assert_close(out.double(), weight.double() @ seen.double(), rtol=1e-5, atol=1e-5)


def test_several_threads_give_the_same_bits():
    weight = sparse_weight(300, 40, 0.3)
    rows, bias = rows_of(weight), torch.randn(300)
    before = torch.get_num_threads()
    try:
        for columns in (1, 20, 300):
            x = torch.randn(columns, 40)
            found = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                found.append(product_of_columns(rows, x, bias))
            assert torch.equal(*found)
    finally:
        torch.set_num_threads(before)


def test_the_plain_way_works_in_pieces(monkeypatch):
    monkeypatch.setitem(plain_product.__globals__, "PIECE", 10)
    weight, x = sparse_weight(9, 8, 0.5), torch.randn(2, 8, 3)
    torch.testing.assert_close(plain_product(rows_of(weight), x), weight @ x)


def test_what_is_not_finite_stays_where_it_is():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[float("nan"), 2.0]])
    out = product_of_columns(rows_of(weight), x)
    assert out.isnan().tolist() == [[True, False]]
    assert out[0, 1] == 2


def test_this_machine_compiles_the_kernel():
    assert compiled().call is not None, compiled().told


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("-mavx2", "-mfma"), ()], ids=["8 lanes", "4 lanes"])
def test_narrower_processors_compute_the_same(flags, tmp_path, monkeypatch):
    if platform.machine() != "x86_64" or find_compiler() is None:
        pytest.skip("the flags are those of one family of processors")
    monkeypatch.setitem(load.__globals__, "FLAGS", (*FLAGS, "-O1"))
    monkeypatch.setitem(load.__globals__, "FOR_HERE", (flags,))
    narrow = load(find_compiler(), tmp_path)
    assert narrow.call is not None, narrow.told
    monkeypatch.setitem(product_of_columns.__globals__, "compiled", lambda: narrow)
    weight, bias = sparse_weight(37, 45, 0.3), torch.randn(37)
    for columns, turned, fed_turned in itertools.product(
        (1, 3, 17, 64, 70, 130), (False, True), (False, True)
    ):
        x = torch.randn(45, columns).t() if fed_turned else torch.randn(columns, 45)
        assert_close(product_of_columns(rows_of(weight), x, bias, turned=turned), weight, x, bias)
