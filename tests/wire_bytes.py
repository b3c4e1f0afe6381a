"""Two workers in a network of their own send gradients to each other, and count what the device sent."""

import json
import multiprocessing
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import ErrorFeedback, PowerSGD, TopK, compress_ddp, dense

RULES = {"dense": lambda: dense, "PowerSGD": partial(PowerSGD, rank=8), "TopK": partial(TopK, density=0.02)}
STEPS = 5


def device_sent() -> int:
    """Return the bytes that the loopback of this network has carried."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (loopback,) = [line for line in lines if line.strip().startswith("lo:")]
    return int(loopback.split(":")[1].split()[8])


def work(rank: int, folder: str) -> None:
    """Be one worker; the first one writes down what was told and what was sent, by rule."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    seen = {}
    for name, make in RULES.items():
        torch.manual_seed(0)
        model = DistributedDataParallel(nn.Sequential(nn.Linear(600, 600), nn.Tanh(), nn.Linear(600, 600)))
        comm = compress_ddp(model, ErrorFeedback(make()))
        for step in range(STEPS + 2):  # the buckets are made in the first two
            if step == 2:
                dist.barrier()
                told, sent = comm.traffic(), device_sent()
            model.zero_grad()
            model(torch.randn(4, 600)).square().mean().backward()
        dist.barrier()
        seen[name] = (comm.traffic() - told).bytes_sent, device_sent() - sent
    if rank == 0:
        sys.stdout.write(json.dumps(seen))
    dist.barrier()


def main(folder: str) -> None:
    """Start both workers; what they inherit was imported once."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(rank, folder)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(sys.argv[1])
