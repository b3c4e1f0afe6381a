"""What do the sparse compressors cost beside a copy and torch.topk, and how short are their messages?

Every round runs all ways in turn on the same 25 million numbers, a copy into memory that is there among them:

    OMP_NUM_THREADS=1 python benchmarks/compress_sparse.py
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from results import markdown, write_section
from torch import Tensor

from tonsor.compress import (
    DGC,
    Comm,
    DCTTopK,
    ErrorFeedback,
    RandomK,
    Threshold,
    TopK,
    pack_sparse,
    sparse,
    unpack_sparse,
)
from tonsor.compress.exchange import spread
from tonsor.compress.largest import largest

NUMEL, WIRE_NUMEL = 25_000_000, 4_000_000
WANTED = {0.01: "6", 0.001: "4"}
NOTE = """Times are of one thread's own computing, in multiples of a copy of the 25M float32 into memory that
is there (its own row is in milliseconds); the least and the median over rounds, in turn, on a machine that
others use at the same time. A whole step is a rule alone in one process: the gradient goes in, and what comes
out, mean and what was sent, are two dense tensors, whose first touch is most of the cost of the cheap rules.
The cosine transform is arithmetic: 64 multiplications an element and side, there, and back twice. Rules that
keep much (DGC: four tensors a step) depend on the large pages the system has free: alone DGC took 10 copies.
"""


def seconds(call: Callable[[], object]) -> float:
    """Return how long the thread computed: what the neighbours of a shared machine do is left out."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the times of each way, round by round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            times[name].append(seconds(ways[name]))
    return {name: found[1:] for name, found in times.items()}


def selections(values: Tensor) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name what finds the largest elements, with what is wanted."""
    for density in (0.01, 0.001):
        count = round(density * values.numel())
        yield f"torch.topk of the magnitudes, {density:.1%}", "", partial(by_torch, values, count)
        yield (
            f"exact selection, {density:.1%}",
            WANTED[density],
            partial(largest, values, count),
        )


def by_torch(values: Tensor, count: int) -> Tensor:
    """Return the places of the largest elements, as torch finds them."""
    return values.abs().topk(count, sorted=False).indices


def messages(values: Tensor) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name what makes and reads messages."""
    for density, bits in ((0.01, None), (0.001, None), (0.001, 4)):
        count = round(density * values.numel())
        told = f"{density:.1%}, {'values in full' if bits is None else f'{bits} bits a value'}"
        message = pack(values, count, bits)
        yield f"selection and message, {told}", "", partial(pack, values, count, bits)
        yield f"message to a dense tensor, {told}", "", partial(read, message, values)


def pack(values: Tensor, count: int, bits: int | None) -> Tensor:
    """Return the message of the largest elements."""
    places = largest(values, count)
    part = sparse(values.take(places), places, values.numel())
    return pack_sparse([part], bits=bits, is_fitted=False)


def read(message: Tensor, like: Tensor) -> Tensor:
    """Return the dense tensor of a message."""
    return spread(unpack_sparse(message), [like], 1)[0]


def steps(values: Tensor) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name whole steps of the rules."""
    grads = {"w": values.view(5000, -1)}
    rules = [
        TopK(density=0.01),
        TopK(density=0.001),
        ErrorFeedback(TopK(density=0.001)),
        RandomK(density=0.01),
        Threshold(value=2.576),
        Threshold(density=0.01),
        DGC(density=0.001),
        DCTTopK(density=0.01),
    ]
    for rule in rules:
        yield f"whole step, `{rule!r}`", "", partial(rule, grads, Comm())


def costs(rounds: int) -> list[list[object]]:
    """Return rows: what each way costs in copies."""
    values = torch.empty(NUMEL).normal_(generator=torch.Generator().manual_seed(0))
    room = torch.empty_like(values)
    found = [*selections(values), *messages(values), *steps(values)]
    ways: dict[str, Callable[[], object]] = {"copy": partial(room.copy_, values)}
    ways |= {name: call for name, _, call in found}
    times = interleaved(ways, rounds)
    least, middle = min(times["copy"]), statistics.median(times["copy"])
    rows: list[list[object]] = [["a copy, ms", f"{least * 1e3:.1f}", f"{middle * 1e3:.1f}", ""]]
    for name, wanted, _ in found:
        best, usual = min(times[name]) / least, statistics.median(times[name]) / middle
        rows.append([name, f"{best:.1f}", f"{usual:.1f}", wanted])
    return rows


def lengths(rounds: int) -> list[list[object]]:
    """Return rows: how short messages are, what coding loses, and how long it takes."""
    chi = torch.distributions.StudentT(torch.tensor(3.0))
    torch.manual_seed(0)
    values = chi.sample((WIRE_NUMEL,))
    rows = []
    for density in (0.1, 0.03, 0.01, 0.001):
        places = largest(values, round(density * WIRE_NUMEL))
        part = sparse(values.take(places), places, WIRE_NUMEL)
        for bits in (None, 16, 8, 4, 3, 2):
            fitted, planned = (
                pack_sparse([part], bits=bits, is_fitted=is_fitted) for is_fitted in (True, False)
            )
            got = unpack_sparse(planned)[0].values
            error = ((got - part.values).norm() / part.values.norm()).item()
            ways = {
                "pack": partial(pack_sparse, [part], bits=bits, is_fitted=False),
                "read": partial(unpack_sparse, planned),
            }
            times = interleaved(ways, rounds)
            in_places = 8 * planned.numel() / places.numel() - (bits or 32)
            rows.append(
                [
                    f"{density:.1%}, {'in full' if bits is None else f'{bits} bits'}",
                    f"{4 * WIRE_NUMEL / fitted.numel():.0f}x",
                    f"{4 * WIRE_NUMEL / planned.numel():.0f}x",
                    f"{in_places:.2f}",
                    f"{error:.2g}",
                    f"{min(times['pack']) * 1e3:.1f}",
                    f"{min(times['read']) * 1e3:.1f}",
                    {None: "700x", 4: "2000x"}.get(bits, "") if density == 0.001 else "",
                ]
            )
    return rows


def main() -> None:
    """Measure everything and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    head = ["25M float32", "least, in copies", "median, in copies", "wanted at most"]
    body = f"{NOTE}\n{markdown(head, costs(rounds))}\n"
    head = [
        "density, values",
        "shortest message",
        "message of fixed length",
        "bits a place in it",
        "error of values",
        "to pack, ms",
        "to unpack, ms",
        "wanted",
    ]
    body += (
        "\n### Messages of 4M heavy-tailed float32 (Student's t, 3 degrees)\n\n"
        "The factor is over 16 MB. Workers send messages of fixed length: nobody waits for a length.\n\n"
        f"{markdown(head, lengths(rounds))}\n"
    )
    write_section("Sparse compressors", "OMP_NUM_THREADS=1 python benchmarks/compress_sparse.py", body)


if __name__ == "__main__":
    main()
