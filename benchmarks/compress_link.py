"""Is training over a slow link faster with compressed gradients, and is its loss the same?

Several hosts on one machine (network namespaces) train 8.3M parameters on Fashion-MNIST over a link of
limited bandwidth, uncompressed, with torch's own hooks and with tonsor's rules. Needs root, and a script
`LAB` that makes the hosts: `up N RATE`, `run COMMAND` once on each with RANK, WORLD_SIZE and MASTER_ADDR set,
`down`:

    python benchmarks/compress_link.py --lab LAB --hosts 2 4 --rates 100mbit 1gbit none
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from results import markdown, write_section
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import ErrorFeedback, PowerSGD, TopK, compress_ddp
from tonsor.examples import fashion_mnist

BATCH = 16  # samples a host and step
FIRST = 2  # steps before the buckets are made and torch's PowerSGD begins
TAIL = 10  # steps whose mean loss is told
SENT = Path("/sys/class/net/ve0/statistics/tx_bytes")
Meet = Callable[[DistributedDataParallel], Any]  # puts a method on a model


def ours(make: Callable[[], Any]) -> Meet:
    """Return what puts one of tonsor's rules, with error feedback, on a model."""
    return lambda model: compress_ddp(model, ErrorFeedback(make()))


def torch_powersgd(model: DistributedDataParallel, *, rank: int) -> None:
    """Put torch's own PowerSGD on a model, compressing from the second step on."""
    state = powerSGD_hook.PowerSGDState(None, rank, start_powerSGD_iter=FIRST)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def torch_half(model: DistributedDataParallel) -> None:
    """Put torch's half precision on a model."""
    model.register_comm_hook(None, default_hooks.fp16_compress_hook)


# torch's PowerSGD deadlocks on gloo with more than one bucket, so it gets one.
METHODS: Mapping[str, tuple[Meet, int]] = {
    "no messages at all": (lambda model: model.register_comm_hook(None, _silent), 25),
    "plain DDP": (lambda model: None, 25),
    "torch fp16": (torch_half, 25),
    "torch PowerSGD 1": (partial(torch_powersgd, rank=1), 1000),
    "torch PowerSGD 4": (partial(torch_powersgd, rank=4), 1000),
    "PowerSGD 1": (ours(partial(PowerSGD, rank=1)), 25),
    "PowerSGD 4": (ours(partial(PowerSGD, rank=4)), 25),
    "TopK 1 %": (ours(partial(TopK, density=0.01)), 25),
    "TopK 0.1 %": (ours(partial(TopK, density=0.001)), 25),
}


def _silent(_: object, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """Take this worker's gradient for the mean."""
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def build() -> nn.Module:
    """Return a network of 8.3M parameters."""
    torch.manual_seed(0)
    sizes = [784, 1536, 1536, 1536, 1536]
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers, nn.Linear(1536, 10))


def train(meet: Meet, cap: int, steps: int, data: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """Train and return time, loss and bytes of every step, the loss as the mean over the hosts."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(build(), bucket_cap_mb=cap)
    meet(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(0))
    rows: list[tuple[float, float]] = []
    for step in range(steps):
        if step == FIRST:
            dist.barrier()
            before = int(SENT.read_text())
        picked = order[(step * size + rank) * BATCH :][:BATCH]
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data[0][picked]), data[1][picked])
        loss.backward()
        optimizer.step()
        rows.append((time.perf_counter() - began, loss.item()))
    dist.barrier()
    sent = (int(SENT.read_text()) - before) / (steps - FIRST)
    losses = torch.tensor([loss for _, loss in rows])
    dist.all_reduce(losses)
    return {"seconds": [s for s, _ in rows], "losses": (losses / size).tolist(), "sent": sent}


def play(names: list[str], steps: int, out: str) -> None:
    """Be one host: train with every method in turn; the first one writes down what it saw."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    part = fashion_mnist(flat=True)["train"].tensors
    seen = {name: train(*METHODS[name], steps, (part[0], part[1])) for name in names}
    dist.barrier()
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(seen))
    sys.stdout.flush()
    os._exit(0)  # gloo may abort a host whose neighbour has left before it


def in_lab(lab: str, hosts: int, rate: str, names: list[str], steps: int) -> dict[str, Any]:
    """Make the hosts, let them train, take them down, and return what the first one saw."""
    out = Path(tempfile.mkdtemp()) / "seen.json"
    subprocess.run([lab, "up", str(hosts), rate], check=True)
    play_one = [sys.executable, __file__, "--play", str(out), "--steps", str(steps), "--methods", *names]
    try:
        subprocess.run([lab, "run", *play_one], check=True)
    finally:
        subprocess.run([lab, "down"], check=True)
    seen: dict[str, Any] = json.loads(out.read_text())
    return seen


def smooth(losses: list[float]) -> list[float]:
    """Return the mean loss of the last steps at every step."""
    return [statistics.fmean(losses[max(0, end - TAIL) : end]) for end in range(1, len(losses) + 1)]


def table(seen: Mapping[str, Any]) -> str:
    """Return the table of one number of hosts and one rate."""
    plain = seen["plain DDP"]
    dense = statistics.median(plain["seconds"][FIRST:])
    goal = smooth(plain["losses"])[-1]
    rows: list[list[object]] = []
    for name, figures in seen.items():
        times = figures["seconds"]
        step = statistics.median(times[FIRST:])
        reached = [i for i, loss in enumerate(smooth(figures["losses"])) if i >= TAIL and loss <= goal]
        rows.append(
            [
                name,
                f"{1000 * step:,.0f}",
                f"{1000 * min(times[FIRST:]):,.0f}-{1000 * max(times[FIRST:]):,.0f}",
                f"{dense / step:.1f}x",
                f"{figures['sent'] / 1e6:.3f}",
                f"{smooth(figures['losses'])[-1]:.4f}",
                f"{sum(times[: reached[0] + 1]):.1f}" if reached else "not reached",
            ]
        )
    head = ["method", "ms a step", "from-to", "faster", "MB sent a step", "loss", "s to plain's loss"]
    return markdown(head, rows)


def main() -> None:
    """Play one host, or run the laboratory and write the section."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lab", help="The script that makes the hosts.")
    options.add_argument("--hosts", type=int, nargs="+", default=[2, 4])
    options.add_argument("--rates", nargs="+", default=["100mbit", "1gbit", "none"])
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options.add_argument("--play", help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.play:
        play(asked.methods, asked.steps, asked.play)
        return
    names = [*dict.fromkeys(["plain DDP", *asked.methods])]
    parts = []
    for hosts in asked.hosts:
        for rate in asked.rates:
            seen = in_lab(asked.lab, hosts, rate, names, asked.steps)
            parts.append(f"### {hosts} hosts, {rate}\n\n{table(seen)}")
    told = (
        f"8.3M parameters, Fashion-MNIST, {BATCH} samples a host, {asked.steps} steps, gloo, one thread a "
        f"host; the first {FIRST} steps count in nothing but the loss, which is the mean of the last {TAIL} "
        "steps over all hosts. All hosts share the processors of one machine; the link has no delay of its "
        "own."
    )
    write_section(
        "Compression over a slow link", "python benchmarks/compress_link.py", "\n\n".join([told, *parts])
    )


if __name__ == "__main__":
    main()
