"""How fast are packing and unpacking, and how small does it get?

Random weights, the worst case for every coder; wall clock on two threads, and seconds of processor time,
which other programs on the machine do not touch. The file is written and read in between.

python benchmarks/pack_speed.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import markdown, write_section
from torch import Tensor

from tonsor import pack

SIDE, COUNT = 2048, 4  # weights of 2048 x 2048, four of them: 67 MB
KINDS: dict[str, tuple[float, dict[str, object]]] = {  # sparsity, and what `pack` is told
    "dense, k-means 4 bit": (0.0, {"bits": 4}),
    "dense, uniform 8 bit": (0.0, {"bits": 8, "sharing": pack.uniform}),
    "50 % zeros, k-means 4 bit": (0.5, {"bits": 4}),
    "90 % zeros, k-means 4 bit": (0.9, {"bits": 4}),
    "90 % zeros, rows and columns of unlike density, 4 bit": (-0.9, {"bits": 4}),
    "90 % zeros, lossless": (0.9, {}),
    "dense, lossless": (0.0, {}),
}


def weights(sparsity: float) -> dict[str, Tensor]:
    """Return weights; a negative sparsity spreads the zeros unevenly over rows and columns."""
    drawn = torch.Generator().manual_seed(0)
    made = {}
    for number in range(COUNT):
        weight = torch.randn(SIDE, SIDE, generator=drawn)
        scores = weight.abs()
        if sparsity < 0:
            spread = [torch.randn(SIDE, generator=drawn).exp() for _ in range(2)]
            scores = scores * spread[0][:, None] * spread[1]
        limit = scores.flatten().kthvalue(max(1, int(abs(sparsity) * weight.numel()))).values
        made[f"layer{number}.weight"] = torch.where(scores > limit, weight, 0) if sparsity else weight
    return made


def timed(call: Callable[[], object]) -> tuple[float, float, object]:
    """Return the seconds on the clock and of the processor that a call takes, and what it gives."""
    clock, worked = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - clock, time.process_time() - worked, found


def row(name: str, rounds: int, folder: Path) -> list[object]:
    """Return a row of the table."""
    sparsity, settings = KINDS[name]
    state = weights(sparsity)
    size = sum(tensor.nbytes for tensor in state.values()) / 1e6
    taken: list[list[float]] = []
    for _ in range(rounds):
        to = timed(lambda: pack.pack(state, **settings))  # type: ignore[arg-type]
        length = pack.save(to[2], folder / "a.tonsor")  # type: ignore[arg-type]
        read = timed(lambda: pack.unpack(pack.load(folder / "a.tonsor")))
        taken.append([to[0], to[1], read[0], read[1]])
    speeds = [f"{size / statistics.median(column):.0f}" for column in zip(*taken, strict=True)]
    best = [f"{size / min(column):.0f}" for column in zip(*taken, strict=True)]
    positions = sorted({entry.positions for entry in to[2].entries.values()})  # type: ignore[attr-defined]
    figures = [f"{middle} ({high})" for middle, high in zip(speeds, best, strict=True)]
    return [name, ", ".join(positions), f"{size * 1e6 / length:.2f}", *figures]


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, arguments.rounds, Path(folder)) for name in KINDS]
    header = ["weights", "zeros written by", "times smaller", "pack", "pack, processor"]
    header += ["unpack", "unpack, processor"]
    told = (
        f"{COUNT} float32 weights of {SIDE} x {SIDE}, random. MB of float32 a second, the median of "
        f"{arguments.rounds} (the best); on the clock with two threads, and a second of processor time."
    )
    command = f"python benchmarks/pack_speed.py --rounds {arguments.rounds}"
    write_section("Pack: speed", command, f"{told}\n\n{markdown(header, rows)}")


if __name__ == "__main__":
    main()
