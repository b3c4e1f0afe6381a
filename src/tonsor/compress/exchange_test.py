import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tonsor.compress import Comm, DCTTopK, Threshold, TopK
from tonsor.compress.exchange import gather_sparse, spread
from tonsor.compress.message import pack_sparse
from tonsor.compress.ragged import gather_ragged
from tonsor.compress.sparse import planned, read_sparse, sparse, write_sparse
from tonsor.compress.workers_test import SIZES, together, workers


def part_of(rank, count, numel=1000):
    generator = torch.Generator().manual_seed(rank)
    places = torch.randperm(numel, generator=generator)[:count].sort().values
    return sparse(torch.randn(count, generator=generator), places, numel)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_ragged", [True, False])
def test_every_worker_gets_the_parts_of_all(size, is_ragged):
    parts = [[part_of(rank, 20 + is_ragged * 7 * rank), part_of(9, 0)] for rank in range(size)]
    rules = [lambda mine, comm: gather_sparse(mine, comm, is_ragged=is_ragged)] * size
    comms = workers(size)
    for rows in together(rules, parts, comms):
        for row, want in zip(rows, parts, strict=True):
            for got, part in zip(row, want, strict=True):
                assert torch.equal(got.places, part.places)
                assert torch.equal(got.values, part.values)
    assert len({comm.bytes_sent for comm in comms}) == 1
    assert {comm.messages for comm in comms} == {1 + is_ragged}


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_any_length_are_gathered_and_counted(size):
    messages = [torch.arange(rank * 3 % 7, dtype=torch.uint8) for rank in range(size)]
    comms = workers(size)
    for rows in together([gather_ragged] * size, messages, comms):
        assert all(torch.equal(row, want) for row, want in zip(rows, messages, strict=True))
    longest = max(message.numel() for message in messages)
    assert [comm.bytes_sent for comm in comms] == [8 + longest] * size


def test_a_worker_with_another_model_is_told():
    class Other:
        size = 2

        def gather(self, tensors, like=None):
            return [tensors, [pack_sparse([part_of(0, 5, numel=1001)])]]

    with pytest.raises(
        ValueError, match=r"worker 1 sent tensors of \[\(1001,\)\] elements, this one of \[\(1000,\)\]"
    ):
        gather_sparse([part_of(0, 5)], Other())


def test_nothing_to_send_is_no_message():
    assert gather_sparse([], Comm()) == [[]]


def test_parts_are_added_up_as_by_numpy():
    parts = [part_of(rank, 100) for rank in range(4)]
    want = np.zeros(1000)
    for part in parts:
        np.add.at(want, part.places.numpy(), part.values.double().numpy() / 4)
    got = spread(parts, [torch.empty(10, 100, dtype=torch.float64)], 4)[0]
    np.testing.assert_allclose(got.numpy().reshape(-1), want, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_of_half_precision_are_added_in_float32(dtype):
    parts = [sparse(torch.tensor([1.0 + rank / 128], dtype=dtype), torch.tensor([0]), 4) for rank in range(3)]
    want = sum(part.values.float() / 3 for part in parts).to(dtype)
    assert torch.equal(spread(parts, [torch.empty(2, 2, dtype=dtype)], 3)[0].view(-1)[:1], want)


@pytest.mark.parametrize("bits", [None, 4])
def test_bytes_without_a_header_are_read_by_their_plan(bits):
    part = part_of(3, 50)
    layout = planned([1000], [50], torch.float32, bits)
    body = write_sparse(part, layout)
    assert body.numel() == layout.nbytes
    back = read_sparse(body, layout)
    assert torch.equal(back.places, part.places)
    assert bits is not None or torch.equal(back.values, part.values)


def test_coded_values_never_wait_for_the_device():
    rules = [*(TopK(bits=bits) for bits in (2, 4, 16)), Threshold(bits=4), DCTTopK(bits=4)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        grads = {"a": torch.empty(40, 50, device="cuda"), "b": torch.empty(8, 9, 3, device="cuda")}
        for rule in rules:
            mean = rule(grads, Comm()).mean
            assert {name: t.shape for name, t in mean.items()} == {name: t.shape for name, t in grads.items()}
