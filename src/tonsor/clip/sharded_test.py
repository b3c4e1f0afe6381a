"""Two processes that hold parameters in parts clip them as one process that holds them whole."""

import inspect
from functools import partial

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

from processes import results_by_rank
from tonsor.clip import RULES, Clip, Percentile, PerTensor, PerUnit, fixed, relative, skip

pytestmark = pytest.mark.slow
SHAPES = [(6, 8), (6, 3000), (5, 4, 3, 3), (7,)]
SOON = {"ZClip": {"warmup": 1}, "AdaGC": {"warmup": 1}, "SpikeClip": {"warmup": 1, "theta": 1.0}}
SOON |= {"SkipSpikes": {"warmup": 2, "sigma": 0.1}, "TargetFraction": {"warmup": 1}}
OTHERS = {
    "the largest of each tensor": lambda: Clip(PerTensor(by="max"), fixed),
    "the root mean square of each unit": lambda: Clip(PerUnit(by="rms"), fixed),
    "the largest of each column": lambda: Clip(PerUnit(unit_dim=1, by="max"), Percentile(percentile=50)),
    "skip by unit": lambda: Clip(PerUnit(), partial(relative, clipping=3.0), skip),
}
PLACEMENTS = {"rows": Shard(0), "columns": Shard(1), "copies": Replicate()}
CASES = [(name, placed) for name in (*RULES, *OTHERS) for placed in PLACEMENTS]


def rule_of(name):
    made = OTHERS[name]() if name in OTHERS else RULES[name]
    return made(**SOON.get(name, {})) if inspect.isclass(made) else made


def clipped(name, place):
    """Return norms and gradients of three steps; `place` puts a tensor where it belongs."""
    rule, found = rule_of(name), []
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(place(torch.randn(shape, generator=generator))) for shape in SHAPES]
    for step in range(3):
        for weight in weights:
            weight.grad = place((1 + 9 * step) * torch.randn(weight.shape, generator=generator))
        norm = rule(weights)
        whole = [getattr(w.grad, "full_tensor", lambda w=w: w.grad)() for w in weights]
        found += [norm, *whole]
    return [tensor.detach().numpy() for tensor in found]


def work(rank, store, results):
    """Clip every case and put what came out into the queue."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))

    def place(tensor, kind):
        kind = Shard(0) if tensor.ndim == 1 and kind == Shard(1) else kind
        return distribute_tensor(tensor, mesh, [kind])

    results.put((rank, [clipped(name, partial(place, kind=PLACEMENTS[placed])) for name, placed in CASES]))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results_by_rank(work, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(case) for case in CASES])
def test_sharded_gradients_are_clipped_as_whole_ones(found, number):
    name, _ = CASES[number]
    whole = clipped(name, lambda tensor: tensor)
    for first, second, alone in zip(found[0][number], found[1][number], whole, strict=True):
        assert (first == second).all()
        torch.testing.assert_close(torch.from_numpy(first), torch.from_numpy(alone), rtol=2e-5, atol=0)
