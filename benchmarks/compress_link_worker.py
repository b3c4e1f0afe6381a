"""One worker of `compress_link.py`: trains with each method in turn and writes what it measured.

Started once on each host, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, as torchrun does.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from compress_link import BESIDE, LINE
from compress_methods import METHODS, NORM, PLAIN, clipped
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import Comm, auto, compress_ddp
from tonsor.compress.link import Link, Message, Timed, fit
from tonsor.examples.data import fashion_mnist
from tonsor.examples.models import mlp

SIZES = (784, 1536, 1536, 1536, 1536, 10)  # 8.3M parameters
ONE, BEHIND = ", one bucket", ", clipped behind"
BATCH, RATE, WARM = 16, 0.05, 3  # samples a worker; learning rate; steps before the clock counts
REPEATS = 5  # of each message
SETTLED, TURNS = 34, 24  # steps until auto has chosen and checked; steps of each after that, in turn
SENT = Path("/sys/class/net/ve0/statistics/tx_bytes")


def plain(model: DistributedDataParallel) -> None:
    """Leave DDP as it is."""


def noop(model: DistributedDataParallel) -> None:
    """Send nothing: the floor; the replicas go apart."""
    model.register_comm_hook(None, noop_hook)


def torch_half(model: DistributedDataParallel) -> None:
    """Compress with torch's own hook."""
    model.register_comm_hook(None, fp16_compress_hook)


def torch_power(rank: int) -> Callable[[DistributedDataParallel], None]:
    """Return what compresses with torch's own PowerSGD."""

    def hook(model: DistributedDataParallel) -> None:
        state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
        model.register_comm_hook(state, powerSGD_hook)

    return hook


def ours(name: str) -> Callable[[DistributedDataParallel], object]:
    """Return what clips each worker's own gradients and compresses them with one of our methods."""
    return lambda model: compress_ddp(model, clipped(name, METHODS[name]()))


def ours_behind(name: str) -> Callable[[DistributedDataParallel], object]:
    """Return what compresses alone; the mean is clipped where it is for torch's hooks."""
    return lambda model: compress_ddp(model, METHODS[name]())


OURS: dict[str, Callable[[DistributedDataParallel], object]] = {
    **{name: ours(name) for name in METHODS},
    **{name + ONE: ours(name) for name in ("PowerSGD, rank 1", "PowerSGD, rank 2")},
}
WAYS: dict[str, Callable[[DistributedDataParallel], object]] = {
    "no communication": noop,
    "DDP": plain,
    "torch fp16": torch_half,
    "torch PowerSGD, rank 1": torch_power(1),
    "torch PowerSGD, rank 2": torch_power(2),
    **OURS,
    **{name + BEHIND: ours_behind(name) for name in ("PowerSGD, rank 2", "top-k, 1 %, 4 bits")},
    "auto": auto,
}


def batches(rank: int, size: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Return this worker's mini-batches, the same for every method."""
    inputs, targets = fashion_mnist()["train"].tensors
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    mine = order[: steps * size * BATCH].view(steps, size, BATCH)[:, rank]
    return [(inputs[chosen].flatten(1), targets[chosen]) for chosen in mine]


def trained(name: str, data: Any, held: Any) -> dict[str, Any]:
    """Train once and return the figures of this worker."""
    torch.manual_seed(0)
    is_whole = name.startswith("torch PowerSGD") or name.endswith(ONE)  # torch's deadlocks with two buckets
    model = DistributedDataParallel(mlp(sizes=SIZES), bucket_cap_mb=1000 if is_whole else 25)
    WAYS[name](model)
    momentum = 0.0 if name in PLAIN else 0.9
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=momentum)
    times, losses, sent = [], [], 0
    for step, (inputs, targets) in enumerate(data):
        if step == WARM:
            sent = wire()
        started = time.perf_counter()
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if name not in OURS:
            nn.utils.clip_grad_norm_(model.parameters(), NORM)
        optimizer.step()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
    dist.barrier()
    with torch.no_grad():
        final = cross_entropy(model.module(held[0]), held[1])
    dist.all_reduce(final)
    return {
        "seconds": times[WARM:],
        "losses": losses,
        "sent": (wire() - sent) / (len(times) - WARM),
        "final": final.item() / dist.get_world_size(),
    }


def beside(data: Any) -> dict[str, Any]:
    """Let auto choose, and then train with it and without it in turn; return the seconds of both."""
    torch.manual_seed(0)
    compressed, plain_one = (DistributedDataParallel(mlp(sizes=SIZES)) for _ in range(2))
    rule, _ = auto(compressed)
    sides = {
        name: (model, torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9))
        for name, model in (("auto", compressed), ("DDP", plain_one))
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step, (inputs, targets) in enumerate(data[: SETTLED + TURNS]):
        for name in list(sides)[:: 1 if step % 2 else -1] if step >= SETTLED - WARM else ["auto"]:
            model, optimizer = sides[name]
            dist.barrier()
            started = time.perf_counter()
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            times[name].append(time.perf_counter() - started)
    return {name: seconds[-TURNS:] for name, seconds in times.items()} | {"why": rule.table()}


def lines() -> dict[str, Link]:
    """Return a line through the median times of each kind of message and size."""
    timed = Timed(Comm(dist.new_group()), time.perf_counter)
    comm = timed.as_comm()
    for numel in (1_000, 10_000, 100_000, 1_000_000, 4_000_000):
        part = torch.ones(numel)
        row = [[part[: numel // comm.size]]] * comm.size
        for _ in range(REPEATS):
            dist.barrier()
            comm.mean([part])
            dist.barrier()
            comm.gather([part[: numel // comm.size]])
            dist.barrier()
            comm.all_to_all(row, row)
    times: dict[tuple[str, int], list[float]] = {}
    for message in timed.messages:
        times.setdefault((message.kind, message.nbytes), []).append(message.seconds)
    return fit(Message(*of, statistics.median(seconds)) for of, seconds in times.items())


def measured(name: str, data: Any, held: Any, steps: int) -> dict[str, Any]:
    """Return the figures of this worker for one row, and tell the most telling one."""
    if name == LINE:
        found: dict[str, Any] = dict(lines())
        print(name, found, flush=True)
        return found
    own = beside(data) if name == BESIDE else trained(name, data[:steps], held)
    print(name, f"{1e3 * statistics.median(own['DDP' if name == BESIDE else 'seconds']):.0f} ms", flush=True)
    return own


def wire() -> int:
    """Return what this host has sent so far; 0 where there is no such device."""
    return int(SENT.read_text()) if SENT.exists() else 0


def main() -> None:
    """Train with each method in turn; the first worker writes the figures of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--only", nargs="+", default=[LINE, *WAYS, BESIDE])
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    data = batches(rank, size, max(arguments.steps, SETTLED + TURNS))
    inputs, targets = fashion_mnist()["valid"].tensors
    for name in arguments.only:
        own = measured(name, data, (inputs.flatten(1), targets), arguments.steps)
        rows: list[Any] = [None] * size
        dist.all_gather_object(rows, own)
        if rank == 0:
            with arguments.out.open("a") as file:
                file.write(json.dumps({"way": name, "workers": rows}) + "\n")
    dist.barrier()
    os._exit(0)  # gloo may abort when a peer has closed first


if __name__ == "__main__":
    main()
