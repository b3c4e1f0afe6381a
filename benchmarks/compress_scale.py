"""How would each method do on more workers and other links than can be had here?

A simulator: what each method sends, and how long it computes, is measured by running it with a channel
that only pretends to have workers; what the messages cost is a model of latency and bandwidth.

    python benchmarks/compress_scale.py --check runs/compress_link
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from compress_link import BESIDE, LINE, read, speed
from compress_methods import METHODS, PLAIN
from results import markdown, write_section
from torch import Tensor

WORKERS = (8, 64, 512, 4096)
GBITS = (1, 10, 100, 400)
LATENCY = 20e-6  # seconds a message needs besides its bytes
BUCKET = 25 * 2**20  # bytes of DDP's buckets
MEASURED = (2, 8, 128)  # pretended workers; beyond them, time goes on along a straight line
ROUNDS = 7
WIDTH, BLOCKS, BACKWARD = 1024, 24, 0.5  # a transformer of 302M weights, and seconds of its backward pass
BLOCK = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH), *[(WIDTH,)] * 4]
SIDES = (784, 1536, 1536, 1536, 1536, 10)  # of the network of compress_link.py
MLP = [*itertools.pairwise(SIDES), *[(side,) for side in SIDES[1:]]]
TITLE = "Compression at scale: a simulation"


SHARED = "gather of shares"  # its size is that of all together


class Message(NamedTuple):
    """One collective of one worker: which, and the bytes it hands over."""

    kind: str
    size: float


@dataclass
class Pretended:
    """A channel that says it has workers and hands back what it was given; it keeps account of messages."""

    size: int
    rank: int = 0
    bytes_sent: int = 0
    messages: list[Message] = field(default_factory=list)

    def _note(self, kind: str, tensors: Sequence[Tensor]) -> None:
        """Write a message down."""
        self.messages.append(Message(kind, float(sum(tensor.nbytes for tensor in tensors))))

    def mean(self, tensors: Sequence[Tensor], /) -> list[Tensor]:
        """Return the tensors as the mean of equal ones."""
        self._note("mean", tensors)
        return [tensor.clone() for tensor in tensors]

    def gather(self, tensors: Sequence[Tensor], /, like: Any = None) -> list[list[Tensor]]:
        """Return the tensors once for each worker, or zeros from the others, who share a whole."""
        if like is not None:
            self._note(SHARED, [tensor for row in like for tensor in row])
            return [list(tensors), *([torch.zeros_like(t) for t in row] for row in like[1:])]
        self._note("gather", tensors)
        return [[tensor.clone() for tensor in tensors] for _ in range(self.size)]

    def all_to_all(self, rows: Sequence[Sequence[Tensor]], like: Sequence[Any], /) -> list[list[Tensor]]:
        """Return zeros from the others, and this worker's own row."""
        self._note("all_to_all", [tensor for row in rows[1:] for tensor in row])
        return [[tensor.clone() for tensor in rows[0]]] + [[torch.zeros_like(t) for t in r] for r in like[1:]]


@dataclass(frozen=True)
class Cost:
    """What some gradients cost: seconds of computing, and messages."""

    seconds: float
    messages: tuple[Message, ...]

    def times(self, seconds: float, size: float = 1.0) -> "Cost":
        """Return the cost with times and bytes multiplied."""
        return Cost(self.seconds * seconds, tuple(Message(m.kind, m.size * size) for m in self.messages))


def measured(name: str, size: int, shapes: Sequence[tuple[int, ...]]) -> Cost:
    """Run a method with pretended workers; its first call, which makes the state, is not timed."""
    chance = torch.Generator().manual_seed(0)
    grads = {str(number): torch.randn(shape, generator=chance) for number, shape in enumerate(shapes)}
    rule, times = METHODS[name](), []
    for _ in range(1 + ROUNDS):
        comm, started = Pretended(size), time.process_time()
        rule(grads, comm)  # type: ignore[arg-type]
        times.append(time.process_time() - started)
    return Cost(statistics.median(times[1:]), tuple(comm.messages))


def cost_at(costs: dict[int, Cost], size: int) -> Cost:
    """Return what a method costs on any number of workers: beyond the last, bytes stay and time goes on."""
    low, high = sorted(costs)[-2:]
    if all(message.kind == "mean" for message in costs[high].messages):  # it computes nothing for each worker
        return Cost(min(cost.seconds for cost in costs.values()), costs[high].messages)
    if size in costs:
        return costs[size]
    slope = max(0.0, costs[high].seconds - costs[low].seconds) / (high - low)
    return Cost(costs[high].seconds + slope * (size - high), costs[high].messages)


def sending(message: Message, size: int, rate: float) -> float:
    """Return how long a collective takes: the better of a ring and a tree, or all pairs for an all-to-all."""
    hops = math.ceil(math.log2(size))
    if message.kind == "mean":
        ring = 2 * (size - 1) * (LATENCY + message.size / size / rate)
        return min(ring, 2 * (hops * LATENCY + message.size / rate))
    if message.kind == SHARED:
        return hops * LATENCY + (size - 1) / size * message.size / rate
    if message.kind == "gather":
        return hops * LATENCY + (size - 1) * message.size / rate
    return (size - 1) * LATENCY + message.size / rate


def step(cost: Cost, price: Callable[[Message], float], backward: float, buckets: int) -> float:
    """Return the time of a step: codes are made where backward runs, and messages queue on the link."""
    computing = backward + cost.seconds
    service = sum(map(price, cost.times(1.0, 1 / buckets).messages))
    done = 0.0
    for number in range(buckets):
        done = max(done, computing * (number + 1) / buckets) + service
    return done


def table(costs: dict[str, dict[int, Cost]], size: int, computing: float) -> str:
    """Return one table: a line a method, a column a bandwidth, and how much faster than dense that is."""
    buckets = -(-4 * sum(math.prod(shape) for shape in BLOCK) * BLOCKS // BUCKET)
    rows: list[list[object]] = []
    plain: list[float] = []
    for name, at in costs.items():
        cost = cost_at(at, size).times(computing * BLOCKS, BLOCKS)
        prices = [partial(sending, size=size, rate=gbits * 1e9 / 8) for gbits in GBITS]
        times = [step(cost, price, BACKWARD, buckets) for price in prices]
        plain = plain or times
        rows.append([name, *(f"{t:.3g} ({p / t:.1f}x)" for t, p in zip(times, plain, strict=True))])
    return markdown([f"{size} workers", *(f"{gbits} Gbit/s" for gbits in GBITS)], rows)


def on_line(workers: list[dict[str, tuple[float, float]]], message: Message) -> float:
    """Return how long a message took by the line of the slowest worker."""
    kind, size = message
    if kind == SHARED:
        kind, size = "gather", size / len(workers)
    return max(alpha + beta * size for alpha, beta in (worker[kind] for worker in workers))


def check(folder: Path) -> str:
    """Compare with what was measured over links: hosts that share two cores compute slower."""
    rows: list[list[object]] = []
    buckets = -(-4 * sum(math.prod(shape) for shape in MLP) // BUCKET)
    for rate, hosts in itertools.product(("none", "1gbit", "100mbit"), (2, 4)):
        ways = {row["way"]: row for row in read(folder / f"{rate}-{hosts}.jsonl")}
        price = partial(on_line, ways.pop(LINE)["workers"]) if LINE in ways else None
        ways.pop(BESIDE, None)
        found = {way: speed(row)[0] / 1e3 for way, row in ways.items() if price}
        floor = found.get("no communication", math.nan)
        for name in METHODS:
            seconds = found.get("DDP" if name == "dense" else name)
            if seconds is not None:
                cost = measured(name, hosts, MLP).times(max(1.0, hosts / 2))
                told = step(cost, price, floor, buckets)
                rows.append(
                    [name, hosts, rate, f"{seconds:.3f}", f"{told:.3f}", f"{told / seconds - 1:+.0%}"]
                )
    if not rows:
        return "Nothing has been measured over links yet: run `compress_link.py` first."
    apart = [abs(float(str(row[-1]).rstrip("%"))) for row in rows]
    near = sum(distance <= 20 for distance in apart)
    head = f"{near} of {len(rows)} within 20 %, median distance {statistics.median(apart):.0f} %."
    return f"{head}\n\n" + markdown(["method", "hosts", "link", "measured, s", "simulated, s", "apart"], rows)


def main() -> None:
    """Measure the methods, simulate, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", type=Path, default=Path("runs/compress_link"))
    arguments = parser.parse_args()
    costs = {
        name: {size: measured(name, size, BLOCK) for size in MEASURED}
        for name in METHODS
        if name not in PLAIN
    }
    parts = [ABOUT]
    for title, computing in (
        ("Computing as fast as one thread here", 1.0),
        ("Computing 30 times as fast", 1 / 30),
    ):
        parts.append(f"### {title}")
        parts += [table(costs, size, computing) for size in WORKERS]
    parts.append(f"### Against what was measured over links\n\n{check(arguments.check)}")
    write_section(
        "Compression at scale: a simulation", "python benchmarks/compress_scale.py", "\n\n".join(parts)
    )


ABOUT = f"""Seconds a step, and in brackets how many times as fast as dense: a transformer of {BLOCKS} blocks
of width {WIDTH} (302M weights), whose backward pass takes {BACKWARD} s, in DDP with buckets of 25
MiB. Codes are made and read where backward runs and so prolong it; messages go on beside. Computing
is measured by running each method on the gradients of one block with a channel
that pretends to have {MEASURED} workers, and goes on along a straight line; messages cost
{LATENCY * 1e6:.0f} us and their bytes: a mean takes the better of a ring and a tree, a gather
doubles, an all-to-all goes to each at once. That top-k goes over to whole gradients where a
gather would be more is left out. Nothing here says what the loss does."""


if __name__ == "__main__":
    main()
