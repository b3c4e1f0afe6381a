"""Every rule over gloo: two, three and four processes agree bit for bit, and with threads that play them."""

import pytest
import torch

from compress_workers import SHAPES, SIZES, STEPS, averaged, run
from tonsor.compress import RULES
from tonsor.compress.workers_test import same, together, workers

pytestmark = pytest.mark.slow
CODED = [
    "fp16",
    "bf16",
    "e4m3",
    "e5m2",
    "int8",
    "int4",
    "sign",
    "MajorityVote",
    "QSGD",
    "TernGrad",
    "Natural",
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_replicas_are_equal_after_each_of_twenty_steps(processes, size, name):
    first, *others = [process[size][name][0] for process in processes[:size]]
    assert len(set(first)) == len(first) == STEPS
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("size", SIZES)
def test_processes_get_the_bits_that_threads_get_and_send_as_many(processes, size, name):
    comms = workers(size)
    rules = [lambda _, comm: averaged(name, comm)] * size
    for (prints, mean, sent), process in zip(together(rules, [{}] * size, comms), processes, strict=False):
        got = process[size][name]
        matrices = [n for n, shape in SHAPES.items() if len(shape) > 1]
        assert same({n: mean[n] for n in matrices}, {n: got[1][n] for n in matrices})
        assert sent == got[2]
        assert len(prints) == STEPS


@pytest.mark.parametrize("name", [name for name in RULES if name != "dense"])
@pytest.mark.parametrize("size", SIZES)
def test_fewer_bytes_are_sent_than_without_compression(processes, size, name):
    share = 2 * (size - 1) / size if name not in CODED else 1  # of an all-reduce, as a ring carries it
    for process in processes[:size]:
        dense = 2 * (size - 1) / size * process[size]["dense"][2]
        assert 0 < process[size][name][2] * share < 0.6 * dense


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_any_length_reach_their_worker_and_are_counted(processes, size):
    for rank, process in enumerate(processes[:size]):
        came, sent = process[size]["exchanged"]
        for other, (places, filled, number) in enumerate(came):
            assert torch.equal(places, torch.arange(rank))
            assert torch.equal(filled, torch.full((2, 3), 10.0 * other + rank))
            assert (number.item(), number.dtype) == (other, torch.int16)
        assert sent == sum(8 * r + 24 + 2 for r in range(size) if r != rank)
