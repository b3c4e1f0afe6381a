"""What the steps of a trial have shown: how long each candidate takes on each bucket, and what it loses."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.link import Link, Message, Timed, fit
from tonsor.compress.plan import Cost
from tonsor.compress.protocol import Averaged, Compressor

Bucket = tuple[str, ...]  # the names of its parameters


class Measured(NamedTuple):
    """What the workers agree on after a trial; the slowest worker's times count.

    Example:
        >>> Measured((), [], [], [], 0.5, 0.5, {}).period
        0.5
    """

    buckets: tuple[Bucket, ...]
    arrivals: list[float]  # seconds after that of the first bucket
    costs: list[list[Cost]]  # of each bucket, by candidate
    whole: list[float]  # energy of each bucket
    period: float  # seconds of a step that the first candidate has averaged
    plain: float  # seconds of a step that no candidate saw
    links: dict[str, Link]  # this worker's own


@final
class Trial:
    """Gather what is measured of some candidates, by number.

    Args:
        count: How many candidates there are.
        clock: Returns the time in seconds; on a GPU it waits for the device.

    Example:
        >>> import time
        >>> from tonsor.compress import dense
        >>> trial = Trial(1, time.perf_counter)
        >>> _ = trial.run(0, dense, {"w": torch.ones(4)}, Comm())
        >>> trial.agree(Comm(), torch.device("cpu")).whole
        [4.0]
    """

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self.count = count
        self.messages: list[Message] = []
        self._clock = clock
        self._arrivals: dict[Bucket, list[float]] = {}
        self._periods: list[float] = []
        self._plain: list[float] = []
        self._runs: dict[tuple[Bucket, int], list[tuple[float, list[Message]]]] = {}
        self._energies: dict[tuple[Bucket, int], tuple[float, float]] = {}

    def run(
        self, candidate: int, rule: Compressor, grads: dict[str, Tensor], comm: Comm, /, *, weigh: bool = True
    ) -> Averaged:
        """Let a candidate average a bucket; write down its time, and what it does not send if asked to."""
        timed = Timed(comm, self._clock)
        begin = self._clock()
        averaged = rule(grads, timed.as_comm())
        seconds = self._clock() - begin - sum(message.seconds for message in timed.messages)
        key = (tuple(grads), candidate)
        self._runs.setdefault(key, []).append((seconds, timed.messages))
        self.messages += timed.messages
        if weigh:
            lost = _energy([grad - averaged.sent[name] for name, grad in grads.items()])
            self._energies[key] = lost, _energy(list(grads.values()))
        return averaged

    def saw(self, arrivals: dict[Bucket, float], period: float, /) -> None:
        """Take the arrivals of the buckets in a step, and how long the step took."""
        first = min(arrivals.values(), default=0.0)
        for bucket, arrival in arrivals.items():
            self._arrivals.setdefault(bucket, []).append(arrival - first)
        self._periods.append(period)

    def left(self, period: float, /) -> None:
        """Take the length of a step that no candidate saw."""
        self._plain.append(period)

    def agree(self, comm: Comm, device: torch.device, /) -> Measured:
        """Return what all workers take for true: one message."""
        links = fit(self.messages)
        arrivals = {bucket: median(times) for bucket, times in self._arrivals.items()}
        buckets = list(dict.fromkeys(bucket for bucket, _ in self._runs))  # served in one order on all
        times = [median(self._periods or [0.0]), median(self._plain or self._periods or [0.0])]
        times += [arrivals.get(bucket, 0.0) for bucket in buckets]
        energies: list[float] = []
        for bucket in buckets:
            for candidate in range(self.count):
                times += self._seconds((bucket, candidate), links)
                energies += self._energies.get((bucket, candidate), (float("inf"), 0.0))
        rows = over_workers(times + energies, comm, device)
        slowest = [max(column) for column in list(zip(*rows, strict=True))[: len(times)]]
        summed = [sum(column) for column in list(zip(*rows, strict=True))[len(times) :]]
        period, plain, *rest = slowest
        spent = rest[len(buckets) :]
        whole = [summed[1 + 2 * row * self.count] for row in range(len(buckets))]
        costs = []
        for row, energy in enumerate(whole):
            places = range(row * self.count, (row + 1) * self.count)
            # Candidates were tried in different steps: each loses a share of the energy of its own.
            shares = [summed[2 * p] / (summed[2 * p + 1] or 1.0) for p in places]
            costs.append(
                [
                    Cost(spent[2 * p], spent[2 * p + 1], energy * s)
                    for p, s in zip(places, shares, strict=True)
                ]
            )
        return Measured(tuple(buckets), rest[: len(buckets)], costs, whole, period, plain, links)

    def _seconds(self, key: tuple[Bucket, int], links: dict[str, Link]) -> tuple[float, float]:
        """Return the seconds of computing and of messages; what was not tried takes for ever."""
        runs = self._runs.get(key)
        if not runs:
            return float("inf"), float("inf")
        messages = runs[-1][1]
        sending = sum(links[m.kind].seconds(m.nbytes) for m in messages if m.kind in links and m.nbytes)
        return min(seconds for seconds, _ in runs), sending


def _energy(tensors: Sequence[Tensor]) -> float:
    """Return the sum of squares of all elements."""
    parts = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return float(torch.stack(parts).double().square().sum())


def over_workers(values: list[float], comm: Comm, device: torch.device, /) -> list[list[float]]:
    """Return the numbers of all workers, by rank: one message.

    Args:
        values: As many on each worker.
        comm: The workers.
        device: On which messages are sent.

    Example:
        >>> over_workers([1.0, 2.0], Comm(), torch.device("cpu"))
        [[1.0, 2.0]]
    """
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    return [row[0].tolist() for row in comm.gather([mine])]


def slowest(values: Sequence[float], comm: Comm, device: torch.device, /) -> list[float]:
    """Return the largest of each number over the workers: one message.

    Args:
        values: As many on each worker.
        comm: The workers.
        device: On which messages are sent.

    Example:
        >>> slowest([1.0, 2.0], Comm(), torch.device("cpu"))
        [1.0, 2.0]
    """
    return [max(column) for column in zip(*over_workers(list(values), comm, device), strict=True)]
