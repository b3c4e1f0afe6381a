import inspect
import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.pack import CODERS, POSITIONS, SHARINGS, Coding, pack, unpack

every_sharing = pytest.mark.parametrize("name", SHARINGS)
every_position = pytest.mark.parametrize("name", POSITIONS)
every_coder = pytest.mark.parametrize("name", CODERS)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@st.composite
def matrices(draw):
    """Draw flags: of any density, some rows and columns empty or full."""
    rows, columns = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.99, 1.0]))
    flags = drawn.random((rows, columns)) < density
    flags[drawn.random(rows) < 0.1] = draw(st.booleans())
    flags[:, drawn.random(columns) < 0.1] = draw(st.booleans())
    return flags


def streams():
    drawn = np.random.default_rng(0)
    yield np.zeros(0, np.uint8)
    yield np.array([255], np.uint8)
    yield np.full(1000, 7, np.uint8)
    yield drawn.integers(0, 256, 5000, dtype=np.uint8)
    yield drawn.geometric(0.2, 70_000).clip(0, 255).astype(np.uint8)


@every_sharing
def test_a_sharing_obeys_the_one_law(name):
    parameters = inspect.signature(SHARINGS[name]).parameters.values()
    first, *tuning = parameters
    assert (first.name, first.kind) == ("weight", inspect.Parameter.POSITIONAL_ONLY)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in tuning)


@every_sharing
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sharing_keeps_shape_type_and_zeros_and_takes_few_values(name, dtype):
    torch.manual_seed(0)
    for shape, bits in itertools.product([(40,), (6, 50), (5, 3, 3, 3), (1, 1), (3, 0)], (2, 4, 8)):
        weight = torch.randn(shape).to(dtype)
        weight.view(-1)[::3] = 0
        before = weight.clone()
        shared = SHARINGS[name](weight, bits=bits)
        values = shared.values()
        assert torch.equal(weight, before)
        assert (values.shape, values.dtype, shared.codes.dtype) == (weight.shape, dtype, torch.uint8)
        assert (values[weight == 0] == 0).all()
        rows = values.reshape(1, -1) if shared.groups == 1 else values.flatten(1)
        assert all(len(row[row != 0].unique()) <= 2**bits - 1 for row in rows)


@every_sharing
def test_more_bits_are_nearer_and_what_is_shared_stays_when_shared_again(name):
    torch.manual_seed(0)
    weight = torch.randn(30, 40)
    errors = [(SHARINGS[name](weight, bits=bits).values() - weight).square().mean() for bits in range(2, 9)]
    assert all(more > less for more, less in itertools.pairwise(errors))
    shared = SHARINGS[name](weight, bits=4).values()
    torch.testing.assert_close(SHARINGS[name](shared, bits=4).values(), shared, rtol=1e-6, atol=0)


@every_sharing
def test_a_large_weight_is_shared_as_a_small_one(name):
    torch.manual_seed(0)
    weight = torch.randn(300, 300)
    weight[weight.abs() < 0.3] = 0
    large, small = (SHARINGS[name](w, bits=4).values() for w in (weight, weight[:200]))
    error, of_small = (float((a - b).square().mean()) for a, b in ((large, weight), (small, weight[:200])))
    assert (large[weight == 0] == 0).all()
    assert error == pytest.approx(of_small, rel=0.1)


@every_sharing
@pytest.mark.parametrize("value", [0.0, 1.0, -3e38, 1e-42, 3e38])
def test_weights_at_the_ends_of_the_range_do_not_break(name, value):
    weight = torch.full((300, 300), value)
    weight[0, 0] = -value
    values = SHARINGS[name](weight, bits=4).values()
    assert values.isfinite().all()
    torch.testing.assert_close(values, weight, rtol=1e-2, atol=1e-30)


@every_sharing
@pytest.mark.parametrize("settings", [{"bits": 1}, {"bits": 9}, {"bits": 2.5}, {"groups": 0}])
def test_a_sharing_refuses_what_is_out_of_range(name, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
        SHARINGS[name](torch.randn(6, 5), **settings)


@every_sharing
def test_more_groups_than_channels_are_one_for_each_channel(name):
    for weight in (torch.randn(6, 5), torch.randn(7)):
        most = weight.shape[0] if weight.ndim > 1 else 1
        assert SHARINGS[name](weight, groups=16).groups == most
        many, one_each = (SHARINGS[name](weight, groups=groups).values() for groups in (16, most))
        assert torch.equal(many, one_each)


@every_sharing
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sharing_refuses_what_is_not_finite_or_no_float(name, bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        SHARINGS[name](torch.tensor([[1.0, bad]]))
    with pytest.raises(ValueError, match="only dense floats"):
        SHARINGS[name](torch.ones(2, 2, dtype=torch.int64))


@every_position
@settings(max_examples=40)
@given(flags=matrices(), coder=st.sampled_from(list(CODERS)))
def test_positions_come_back(name, flags, coder):
    before = flags.copy()
    data = POSITIONS[name].encode(flags, [coder])
    assert np.array_equal(flags, before)
    assert np.array_equal(POSITIONS[name].decode(data, *flags.shape), before)


@every_position
def test_positions_that_do_not_fit_the_matrix_are_refused(name):
    flags = np.random.default_rng(0).random((20, 30)) < 0.2
    data = POSITIONS[name].encode(flags, ["stored"])
    for rows, columns, cut in ((3, 4, len(data)), (20, 30, len(data) // 2), (20, 30, 1), (20, 30, 0)):
        with pytest.raises(ValueError):
            POSITIONS[name].decode(data[:cut], rows, columns)


@every_coder
def test_symbols_come_back(name):
    coder = CODERS[name]
    for symbols in streams():
        data = coder.encode(symbols)
        assert isinstance(data, bytes)
        assert np.array_equal(coder.decode(data, len(symbols)), symbols)


@every_coder
def test_a_coder_refuses_a_broken_stream(name):
    data = CODERS[name].encode(np.random.default_rng(0).integers(0, 9, 3000, dtype=np.uint8))
    with pytest.raises(ValueError):
        CODERS[name].decode(data[:-3], 3000)


@every_coder
def test_a_coder_is_known_by_a_mark_of_its_own(name):
    assert len(CODERS[name].mark) == 1
    assert [coder.mark for coder in CODERS.values()].count(CODERS[name].mark) == 1


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("position", ["inline", *POSITIONS])
@every_coder
def test_every_way_to_pack_gives_the_same_tensors(name, position, bits):
    torch.manual_seed(0)
    weight = torch.randn(20, 30) * (torch.rand(20, 30) < 0.2)
    packed = pack({"w": weight}, bits=bits, coding=Coding(positions=(position,), coders=(name,)))
    expected = weight if bits is None else SHARINGS["kmeans"](weight, bits=bits).values()
    assert packed.entries["w"].positions == position
    assert torch.equal(unpack(packed)["w"], expected)


@pytest.mark.parametrize(("coder", "package"), [("range", "constriction"), ("zstd", "zstandard")])
def test_a_missing_package_is_named_with_the_way_to_get_it(coder, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tonsor\[pack\]'"):
        CODERS[coder].encode(np.zeros(3, np.uint8) + np.arange(3, dtype=np.uint8))
