"""What the two workers of `shrink_workers_test.py` do; a new process must be able to import it."""

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.shrink import channel_groups, shrink_
from tonsor.tensors import fingerprint

STEPS = 4


def network():
    """Return a small network that a seed alone decides."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def cut(model, optimizer):
    """Remove the first unit of each group."""
    groups = channel_groups(model, torch.ones(1, 4))
    keep = {name: torch.arange(g.units) > 0 for name, g in groups.groups.items()}
    return shrink_(model, groups, groups.expand(keep, dict(model.named_parameters())), optimizer)


def trained(rank, world):
    """Train two steps, cut, train two more; return the weights."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    data = torch.randn(STEPS, 8, 4, generator=torch.Generator().manual_seed(1))
    for step in range(STEPS):
        if step == 2:
            del wrapped  # its buckets have the old sizes
            cut(model, optimizer)
            wrapped = DistributedDataParallel(model) if world > 1 else model
        optimizer.zero_grad()
        wrapped(data[step][rank::world]).square().mean().backward()
        optimizer.step()
    return model


def work(rank, store, results):
    """Train with a cut in the middle, and put what came of it."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = trained(rank, 2)
    weights = {name: p.detach().tolist() for name, p in model.named_parameters()}
    distributed.destroy_process_group()
    results.put((rank, (fingerprint(model.state_dict()), weights)))


def refused(rank, store, results):
    """Try to cut the wrapper itself, and put what was said."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(network())
    groups = channel_groups(wrapped.module, torch.ones(1, 4))
    try:
        shrink_(wrapped, groups)
        said = ""
    except ValueError as error:
        said = str(error)
    distributed.destroy_process_group()
    results.put((rank, said))
