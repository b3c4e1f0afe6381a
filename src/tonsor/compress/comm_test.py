import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress import Comm

DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
some = st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), max_size=5)


@settings(max_examples=50)
@given(kinds=some, seed=st.integers(0, 99))
def test_any_list_is_gathered_bit_for_bit(kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randint(0, 2, shape, generator=generator).to(dtype) for shape, dtype in kinds]
    (row,) = Comm().gather(tensors)
    assert len(row) == len(tensors)
    for got, want in zip(row, tensors, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert torch.equal(got, want)


def test_what_is_gathered_keeps_every_bit_of_what_is_not_a_number():
    bits = torch.tensor([0x7FC00001, -0x00400000, 0x7F800000], dtype=torch.int32)
    ((got,),) = Comm().gather([bits.view(torch.float32)])
    assert torch.equal(got.view(torch.int32), bits)


@settings(max_examples=50)
@given(kinds=st.lists(st.tuples(shapes, st.sampled_from(DTYPES[:4])), max_size=5))
def test_the_mean_of_one_worker_is_what_came_and_shares_no_memory(kinds):
    tensors = [torch.full(shape, 1.5).to(dtype) for shape, dtype in kinds]
    means = Comm().mean(tensors)
    for got, want in zip(means, tensors, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        got.zero_()
        assert (want == 1.5).all()


def test_alone_nothing_is_sent():
    comm = Comm()
    comm.mean([torch.ones(5)])
    comm.gather([torch.ones(5)])
    assert (comm.size, comm.rank, comm.bytes_sent) == (1, 0, 0)


def test_other_bytes_than_the_others_expect_are_refused():
    with pytest.raises(ValueError, match="worker 0 has 8 bytes, `like` says 4"):
        Comm().gather([torch.ones(2)], [[torch.empty(1)]])


def test_transposed_tensors_are_packed_in_their_own_order():
    t = torch.arange(6.0).view(2, 3).t()
    ((gathered,),) = Comm().gather([t])
    (mean,) = Comm().mean([t])
    assert torch.equal(gathered, t)
    assert torch.equal(mean, t)


@settings(max_examples=50)
@given(kinds=some)
def test_what_a_worker_has_for_itself_comes_back_and_shares_no_memory(kinds):
    tensors = [torch.ones(shape).to(dtype) for shape, dtype in kinds]
    comm = Comm()
    (row,) = comm.all_to_all([tensors], [tensors])
    assert comm.bytes_sent == 0
    for got, want in zip(row, tensors, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        got.zero_()
        assert (want == 1).all()
