"""Two processes that hold a weight in parts bound it as one process that holds it whole."""

import inspect

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

from processes import results_by_rank
from tonsor.constrain import RULES

pytestmark = pytest.mark.slow
SHAPES = [(6, 8), (6, 3000), (8, 4, 3, 3)]
CASES = [
    (name, shape, dtype) for name in RULES for shape in SHAPES for dtype in (torch.float32, torch.bfloat16)
]


def bound(name):
    return RULES[name]() if inspect.isclass(RULES[name]) else RULES[name]


def weight(shape, dtype):
    return (9 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)


def work(rank, store, results):
    """Bound every case under each placement, twice, and put the whole weights into the queue."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found = []
    for name, shape, dtype in CASES:
        for placement in (Shard(0), Shard(1), Replicate()):
            parameter = torch.nn.Parameter(distribute_tensor(weight(shape, dtype), mesh, [placement]))
            apply = bound(name)
            apply([parameter])
            apply([parameter])
            found.append(parameter.full_tensor().detach().float().numpy())
    results.put((rank, found))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results_by_rank(work, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{n}-{s}-{d}" for n, s, d in CASES])
def test_a_sharded_weight_is_bounded_as_a_whole_one(found, number):
    name, shape, dtype = CASES[number]
    whole = weight(shape, dtype)
    bound(name)([whole])
    rtol = 1e-5 if dtype is torch.float32 else 1e-2
    for placed in range(3):
        first, second = (torch.from_numpy(found[rank][3 * number + placed]) for rank in range(2))
        assert torch.equal(first, second)
        torch.testing.assert_close(first, whole.float(), rtol=rtol, atol=0)
