"""What the four workers of `compress_workers_test.py` do; a new process must be able to import it."""

import inspect

import torch
import torch.distributed as dist

from processes import saved_by_rank
from tonsor.compress import RULES, Comm, ErrorFeedback
from tonsor.tensors import fingerprint

STEPS, WORKERS, SIZES = 20, 4, (2, 3, 4)
SHAPES = {"conv": (6, 4, 3, 3), "bias": (7,), "large": (130, 190), "scale": (), "empty": (0, 5)}


def made(name):
    """Return the rule of that name, wrapped."""
    return ErrorFeedback(RULES[name]() if inspect.isclass(RULES[name]) else RULES[name])


def grads(step, rank):
    """Return gradients that a worker has at a step."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def averaged(name, comm):
    """Return the fingerprint of every mean, the last mean and the bytes sent."""
    rule, prints = made(name), []
    before = comm.bytes_sent
    for step in range(STEPS):
        mean = rule(grads(step, comm.rank), comm).mean
        prints.append(fingerprint(mean))
    return prints, mean, comm.bytes_sent - before


def exchanged(comm):
    """Send rows of many lengths and types; return what came and what was counted."""
    row = [torch.full((2, 3), 10.0 * comm.rank), torch.tensor(comm.rank, dtype=torch.int16)]
    rows = [[torch.arange(rank), row[0] + rank, row[1]] for rank in range(comm.size)]
    like = [[torch.empty(comm.rank, dtype=torch.int64), *row]] * comm.size
    before = comm.bytes_sent
    return comm.all_to_all(rows, like), comm.bytes_sent - before


def work(rank, folder):
    """Play with two, three and four workers, and write down what was seen."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    seen = {}
    for size in SIZES:
        group = dist.new_group(list(range(size)))
        if rank < size:
            comm = Comm(group)
            seen[size] = {name: averaged(name, comm) for name in RULES} | {"exchanged": exchanged(comm)}
    torch.save(seen, f"{folder}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


def run(folder):
    """Return what each worker saw."""
    return saved_by_rank(work, WORKERS, folder)
