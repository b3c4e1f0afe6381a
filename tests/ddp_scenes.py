"""What three processes play over gloo for `ddp_traps_test.py`; a new process must be able to import it."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from processes import saved_by_rank
from tonsor.compress import (
    ErrorFeedback,
    PowerSGD,
    TopK,
    compress_ddp,
    compress_fsdp,
    dense,
    gather_state,
    spread_state,
)

SIZE = 3
BATCHES = (1, 3, 5)  # of each worker, where they have not the same number


class Net(nn.Module):
    """Odd sizes, so that shards are padded; one branch may rest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = nn.Linear(10, 41), nn.Linear(41, 42)
        self.side, self.last = nn.Linear(41, 42), nn.Linear(42, 4)

    def forward(self, x, side=True):
        """Return four numbers a sample."""
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.middle(x) + (self.side(x) if side else 0)))


def some():
    """Return a rule that sends little and forgets nothing."""
    return ErrorFeedback(TopK(density=0.05))


def batch(step, rank):
    """Return a worker's inputs of a step."""
    return torch.randn(8, 10, generator=torch.Generator().manual_seed(100 * step + rank))


def loss_of(model, step, rank, **options):
    """Return the loss on a worker's inputs of a step."""
    return model(batch(step, rank), **options).square().mean()


def whole(tensors):
    """Return named tensors, with those that are sharded made whole."""
    named = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in tensors if t is not None}
    return {n.removeprefix("module."): t.detach().clone() for n, t in named.items()}


def train(model, rank, steps=4, **options):
    """Train, and return the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step, rank, **options).backward()
        optimizer.step()
    return whole(model.named_parameters())


def wrapped(rule=None, scaler=None, **options):
    """Return a model under DDP with many buckets, and its channel."""
    model = DistributedDataParallel(Net(), bucket_cap_mb=0.004, **options)
    return model, compress_ddp(model, rule, scaler=scaler) if rule else None


def static_graph(rank):
    """Train with the branch at rest, once declared and once searched for."""
    declared, _ = wrapped(some(), static_graph=True)
    searched, _ = wrapped(some(), find_unused_parameters=True)
    return train(declared, rank, side=False), train(searched, rank, side=False)


def run_out(rank):
    """Sum what is applied and what this worker gave, where the data of some end early."""
    rule = some()
    (model, _), local = wrapped(rule), Net()
    applied, own = ({n: torch.zeros_like(p) for n, p in local.named_parameters()} for _ in range(2))
    with model.join():
        for step in range(BATCHES[rank]):
            for each, total in ((model, applied), (local, own)):
                each.zero_grad()
                loss_of(each, step, rank).backward()
                for n, p in each.named_parameters():
                    total[n.removeprefix("module.")] += p.grad
    trained, _ = wrapped(some())
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    with trained.join():
        for step in range(BATCHES[rank]):
            optimizer.zero_grad()
            loss_of(trained, step, rank).backward()
            optimizer.step()
    return applied, own, rule.state_dict()["residuals"], whole(trained.named_parameters())


def overflow(rank, steps, scale):
    """Train with a scaler; in step -1 the gradient of one layer of one worker is infinite."""
    rule = ErrorFeedback(TopK(density=0.05), whole_steps=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2, enabled=scale > 1)
    model, _ = wrapped(rule, scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scales = []
    for step in steps:
        optimizer.zero_grad()
        bad = step < 0 and rank == 1
        hook = model.module.middle.weight.register_hook(lambda g, bad=bad: g * torch.inf if bad else g)
        scaler.scale(loss_of(model, abs(step), rank)).backward()
        hook.remove()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return whole(model.named_parameters()), rule.state_dict()["residuals"], scales


def fail(rank):
    """Let one worker's compressor fail while the worker lives on; return what each backward raised."""

    def broken(grads, comm):
        if comm.rank == 0:
            raise KeyError("on the first worker alone")
        return dense(grads, comm)

    model, told = wrapped(broken)[0], []
    for _ in range(2):
        try:
            loss_of(model, 0, rank).backward()
        except RuntimeError as error:
            told.append(str(error))
    dist.barrier()  # nobody has left
    return told


def count(rank):
    """Return the traffic of one step behind others, and of all."""
    model, comm = wrapped(ErrorFeedback(PowerSGD(rank=1)))
    train(model, rank, steps=2)
    before = comm.traffic()
    train(model, rank, steps=1)
    return comm.traffic() - before, comm.traffic()


def gather(rank):
    """Gather the states of all on the first, and go on with them on two workers."""
    rule = ErrorFeedback(PowerSGD(rank=1))
    model, comm = wrapped(rule)
    train(model, rank)
    states = gather_state(rule, comm)
    shared = [states]
    dist.broadcast_object_list(shared)
    spread = [spread_state(rule, shared[0], rank=number, size=2) for number in range(2)]
    return states, rule.state_dict(), spread


def sharded(rule=None, place=None, **options):
    """Return a model under FSDP2 in two groups, and its channel."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (SIZE,))
    model = Net()
    options |= {"mesh": mesh} | ({"shard_placement_fn": place} if place else {})
    fully_shard(model.middle, **options)
    fully_shard(model, **options)
    return model, compress_fsdp(model, rule) if rule else None


def along_the_inside(parameter):
    """Shard one weight along its inputs."""
    return Shard(1) if parameter.shape == (4, 42) else None


def fsdp(rank):
    """Train sharded models in pairs that should end alike."""
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    pairs = {
        "dense": (sharded(dense), sharded()),
        "half": (sharded(dense, mp_policy=half), sharded(mp_policy=half)),
        "TopK": (sharded(some()), wrapped(some())),
        "inside": (sharded(some(), along_the_inside), wrapped(some())),
        "PowerSGD": (sharded(ErrorFeedback(PowerSGD(rank=2))), wrapped(ErrorFeedback(PowerSGD(rank=2)))),
    }
    seen = {name: [train(model, rank) for model, _ in pair] for name, pair in pairs.items()}
    seen["traffic"] = [pair[1].traffic() for pair in pairs["TopK"]]
    rested = sharded(some())[0], wrapped(some(), find_unused_parameters=True)[0]
    seen["unused"] = [train(model, rank, side=False) for model in rested]
    seen["accumulated"] = [accumulated(rank, sharded(some())[0]), accumulated(rank, wrapped(some())[0])]
    return seen


def accumulated(rank, model):
    """Return the gradients of two batches that were sent as one."""
    is_sharded = hasattr(model, "set_requires_gradient_sync")
    if is_sharded:
        model.set_requires_gradient_sync(False)
    with nullcontext() if is_sharded else model.no_sync():
        loss_of(model, 0, rank).backward()
    if is_sharded:
        model.set_requires_gradient_sync(True)
    loss_of(model, 1, rank).backward()
    return whole((n, p.grad) for n, p in model.named_parameters())


def work(rank, folder):
    """Play all scenes and write down what was seen."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    seen = {"static_graph": static_graph(rank), "run_out": run_out(rank), "gather": gather(rank)}
    seen["overflow"] = overflow(rank, [0, 1, -2, 3], 1024.0)
    seen["no overflow"], seen["no scale"] = (overflow(rank, [0, 1, 3], scale) for scale in (1024.0, 1.0))
    seen["count"], seen["fsdp"] = [t.__dict__ for t in count(rank)], fsdp(rank)
    seen["fsdp"]["traffic"] = [t.__dict__ for t in seen["fsdp"]["traffic"]]
    seen["fail"] = fail(rank)
    torch.save(seen, f"{folder}/{rank}")
    dist.barrier()


def run(folder):
    """Run the workers in processes of their own and return what each saw."""
    return saved_by_rank(work, SIZE, folder)
