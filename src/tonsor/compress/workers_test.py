"""Several workers in one process, for the tests of this room: a thread each, meeting at a barrier."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from threading import Barrier, BrokenBarrierError

import pytest
import torch
from torch import Tensor

from tonsor.compress import Averaged, TopK

SIZES = (1, 2, 3, 5)
SHAPES = {"conv": (6, 4, 3, 3), "bias": (7,), "wide": (12, 30), "scale": (), "empty": (0, 5), "one": (9, 1)}


class Simulated:
    """A Comm whose workers are threads; it also counts messages."""

    def __init__(self, rank: int, slots: list[list[Tensor]], barrier: Barrier) -> None:
        self.size, self.rank, self.bytes_sent, self.messages = len(slots), rank, 0, 0
        self._slots, self._barrier = slots, barrier

    def mean(self, tensors: Sequence[Tensor], /) -> list[Tensor]:
        if not tensors:
            return []
        widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        wide = [tensor.to(widest, copy=True) / self.size for tensor in tensors]
        by_rank = self._exchange(wide)
        means = [torch.stack(same).sum(0) for same in zip(*by_rank, strict=True)]
        return [mean.to(tensor.dtype) for mean, tensor in zip(means, tensors, strict=True)]

    def gather(
        self, tensors: Sequence[Tensor], /, like: Sequence[Sequence[Tensor]] | None = None
    ) -> list[list[Tensor]]:
        expected = [tensors] * self.size if like is None else like
        if not any(expected):
            return [[] for _ in expected]
        everything = self._exchange([t.clone() for t in tensors])
        lengths = [sum(t.nbytes for t in row) for row in expected]
        self.bytes_sent += max(lengths) - lengths[self.rank]
        _assert_alike(everything, expected)
        return everything

    def all_to_all(self, rows: Sequence[Sequence[Tensor]], like: Sequence[Sequence[Tensor]], /) -> list:
        flat = [tensor.clone() for row in rows for tensor in row]
        starts = [sum(map(len, rows[:rank])) for rank in range(self.size + 1)]
        own = [t.nbytes for t in rows[self.rank]]
        everything = self._exchange([*flat, torch.tensor(starts)])
        self.bytes_sent -= sum(own) + 8 * len(starts)  # what stays here, and what only this class needs
        got = [row[row[-1][self.rank] : row[-1][self.rank + 1]] for row in everything]
        others = [rank for rank in range(self.size) if rank != self.rank]
        _assert_alike([got[rank] for rank in others], [like[rank] for rank in others])
        return got

    def _exchange(self, tensors: list[Tensor]) -> list[list[Tensor]]:
        self.messages += 1
        self.bytes_sent += sum(tensor.nbytes for tensor in tensors)
        self._slots[self.rank] = tensors
        self._barrier.wait(20)
        everything = list(self._slots)
        self._barrier.wait(20)
        return everything


def _assert_alike(rows: Sequence[Sequence[Tensor]], like: Sequence[Sequence[Tensor]]) -> None:
    for came, expected in zip(rows, like, strict=True):
        assert [(t.shape, t.dtype) for t in came] == [(t.shape, t.dtype) for t in expected]


def workers(size: int) -> list[Simulated]:
    slots: list[list[Tensor]] = [[] for _ in range(size)]
    barrier = Barrier(size)
    return [Simulated(rank, slots, barrier) for rank in range(size)]


def together(
    rules: Sequence[Callable], grads: Sequence[dict], comms: Sequence | None = None
) -> list[Averaged]:
    """Let every worker average its gradients with its own rule."""
    comms = comms or workers(len(rules))

    def work(rank):
        try:
            return rules[rank](grads[rank], comms[rank])
        except Exception:
            comms[rank]._barrier.abort()
            raise

    with ThreadPoolExecutor(len(rules)) as threads:
        return list(threads.map(work, range(len(rules))))


def bucket(seed: int, *, shapes=None, dtype=torch.float32, scale=1.0) -> dict[str, Tensor]:
    """Return random gradients by name."""
    generator = torch.Generator().manual_seed(seed)
    shapes = SHAPES if shapes is None else shapes
    return {
        name: (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, shape in shapes.items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether two dicts hold the same names and the same bits."""
    bits = [
        [(name, t.shape, t.dtype, t.reshape(-1).tolist()) for name, t in sorted(d.items())] for d in (a, b)
    ]
    return repr(bits[0]) == repr(bits[1])  # repr: NaN is NaN, and -0.0 is not 0.0


def test_simulated_workers_average_and_gather_as_the_formulas_say():
    grads = [{"a": torch.tensor([float(rank), 1.0])} for rank in range(3)]
    comms = workers(3)
    got = together([lambda g, comm: (comm.mean([g["a"]]), comm.gather([g["a"]]))] * 3, grads, comms)
    for mean, gathered in got:
        torch.testing.assert_close(mean[0], torch.tensor([1.0, 1.0]))
        assert [row[0][0].item() for row in gathered] == [0.0, 1.0, 2.0]
    assert [(comm.messages, comm.bytes_sent) for comm in comms] == [(2, 16)] * 3


def test_a_rule_that_fails_on_one_simulated_worker_does_not_hang_the_others():
    def broken(grads, comm):
        if comm.rank == 1:
            raise KeyError("mine")
        return TopK()(grads, comm)

    with pytest.raises((KeyError, BrokenBarrierError)):
        together([broken] * 2, [bucket(0)] * 2)
