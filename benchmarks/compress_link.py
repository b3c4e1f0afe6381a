"""How much faster does compression make a training step, over which link?

Hosts are network namespaces joined by a link of limited bandwidth (needs root; NETLAB names the script):

    NETLAB=netlab.sh python benchmarks/compress_link.py --hosts 2 4 --rates 100mbit 1gbit none
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

from results import markdown, write_section

HERE = Path(__file__).parent
FIXED = 0.9  # the loss to which the time is taken, of the mean of the last WINDOW steps over all workers
WINDOW = 10
BESIDE = "auto beside DDP"  # a row of its own: both in one run, step by step in turn
LINE = "messages alone"  # another: a line through the times of each kind, with nothing computed beside


def cell(netlab: str, hosts: int, rate: str, out: Path, steps: int, only: list[str]) -> None:
    """Measure every method on so many hosts and one bandwidth."""
    worker = [sys.executable, str(HERE / "compress_link_worker.py"), "--out", str(out), "--steps", str(steps)]
    done = {row["way"] for row in read(out)}
    left = [name for name in only if name not in done]
    if not left:
        return
    subprocess.run([netlab, "down"], check=True)
    subprocess.run([netlab, "up", str(hosts), rate], check=True)
    try:
        subprocess.run(
            [netlab, "run", *worker, "--only", *left], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    finally:
        subprocess.run([netlab, "down"], check=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the methods that have been measured."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def speed(row: dict[str, Any]) -> tuple[float, float, float]:
    """Return median and quartile range in ms of the slowest worker, and the bytes a worker sent."""
    steps = [max(times) for times in zip(*(worker["seconds"] for worker in row["workers"]), strict=True)]
    low, middle, high = statistics.quantiles(steps, n=4)
    return 1e3 * middle, 1e3 * (high - low), statistics.mean(worker["sent"] for worker in row["workers"])


def steps_to_loss(row: dict[str, Any]) -> float:
    """Return after how many steps the mean training loss of the last steps is low enough."""
    losses = [statistics.mean(at) for at in zip(*(w["losses"] for w in row["workers"]), strict=True)]
    ends = range(WINDOW, len(losses) + 1)
    return next((end for end in ends if statistics.mean(losses[end - WINDOW : end]) <= FIXED), math.nan)


def in_turn(row: dict[str, Any]) -> str:
    """Say how long a step takes with auto, as a multiple of the step without it that came next to it."""
    sides = [
        [max(times) for times in zip(*(worker[name] for worker in row["workers"]), strict=True)]
        for name in ("auto", "DDP")
    ]
    ratios = [mine / plain for mine, plain in zip(*sides, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    whole = statistics.median(sides[0]) / statistics.median(sides[1])
    return (
        f"auto and DDP in turn, step by step, after it has chosen: {whole:.2f} times DDP's median; pairs "
        f"{middle:.2f} (quartiles {low:.2f} to {high:.2f})."
    )


def table(rows: list[dict[str, Any]], long: dict[str, dict[str, Any]], ours: Container[str]) -> str:
    """Return one cell's table: times from the cell itself, losses from the long run without a limit."""
    plain = next(speed(row)[0] for row in rows if row["way"] == "DDP")
    lines: list[list[object]] = []
    for row in (row for row in rows if row["way"] not in (BESIDE, LINE)):
        (ms, spread, sent), name = speed(row), row["way"]
        learned = ["", ""]
        if name in long and name != "no communication":
            final = long[name]["workers"][0]["final"]
            like = long["dense" if name in ours else "DDP"]  # clipped in the same way
            apart = final / like["workers"][0]["final"] - 1
            learned = [f"{final:.3f} ({apart:+.1%})", f"{steps_to_loss(long[name]) * ms / 1e3:.1f}"]
        lines.append(
            [name, f"{ms:.0f}", f"{spread:.0f}", f"{plain / ms:.1f}x", f"{sent / 1e6:.3f}", *learned]
        )
    header = ["method", "ms a step", "spread", "against DDP", "MB sent", "loss", f"s to loss {FIXED}"]
    return markdown(header, lines)


def main() -> None:
    """Measure what is not there yet and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--rates", nargs="+", default=["100mbit", "1gbit", "none"])
    parser.add_argument("--steps", type=int, default=33)
    parser.add_argument("--long", type=int, default=300, help="steps without a limit, for the losses")
    parser.add_argument("--cache", type=Path, default=Path("runs/compress_link"))
    parser.add_argument("--only", nargs="+")
    arguments = parser.parse_args()
    from compress_link_worker import OURS, WAYS

    arguments.cache.mkdir(parents=True, exist_ok=True)
    parts = [ABOUT.format(steps=arguments.steps, long=arguments.long)]
    for hosts in arguments.hosts:
        long: dict[str, dict[str, Any]] = {}
        for rate in sorted(arguments.rates, key="none".__ne__):  # the long runs first
            out = arguments.cache / f"{rate}-{hosts}.jsonl"
            steps = arguments.long if rate == "none" else arguments.steps
            cell(os.environ["NETLAB"], hosts, rate, out, steps, arguments.only or [LINE, *WAYS, BESIDE])
            rows = read(out)
            long = {row["way"]: row for row in rows} if rate == "none" else long
            limit = "no limit" if rate == "none" else rate
            told = [in_turn(row) for row in rows if row["way"] == BESIDE]
            parts.append("\n\n".join([f"### {hosts} hosts, {limit}", table(rows, long, OURS), *told]))
    write_section("Compression over a link", "python benchmarks/compress_link.py", "\n\n".join(parts))


ABOUT = """An MLP of 8.3M parameters (33 MB of gradients) on Fashion-MNIST, 16 images a worker, SGD with
momentum, all from the same weights with the same batches. Hosts are network namespaces on one
machine, which share its two cores; the link limits bandwidth and adds no delay. A step takes as
long as its slowest worker; median and distance of the quartiles of {steps} steps, without the
first three. MB sent are a worker's and step's, counted by the network device, with all headers.
With DDP, torch's hooks, `auto` and where "clipped behind" is said the joint norm of the mean is clipped
to 1; with our rules each worker clips before (`LocalClip`: each tensor to the square root of the number
of workers), and "dense" sends whole gradients clipped so. The loss does not depend on the link: it is
that of the validation images after {long} steps without a limit (in brackets against that of DDP, for
our rules against that of "dense"), and the last column is the steps to a mean training loss of ten
steps times the step's time here. torch's PowerSGD has one bucket, because with two it
deadlocks on gloo, and its first two steps are dense; ours has DDP's buckets of 25 MiB, and one where
that is said. DGC runs at its last density, without a warm-up. gloo's all-to-all, the first half of what
int8, sign and their kin send, was seen to fill 60 % of a link of 100 Mbit/s that a ring fills to 95 %.
auto spends 20 steps on measuring, which is most of its row; what it comes to is told below each table,
from a run of its own in turn with DDP."""


if __name__ == "__main__":
    main()
