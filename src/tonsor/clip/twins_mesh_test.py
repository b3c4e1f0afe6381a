"""Two processes that hold gradients in parts clip them as one process that holds them whole."""

import math
from functools import partial

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import tonsor
from processes import results_by_rank

pytestmark = pytest.mark.slow
ORDERS = (2.0, 1.0, 3.0, 0.0, math.inf, -math.inf)
SHAPES = [(6, 8), (5, 3), (7,), (1, 9), (3, 3000)]
KINDS = {
    "sharded": [(0, [Shard(0)])] * 5,
    "sharded along dimensions": [(0, [Shard(i)]) for i in (0, 1, 0, 1, 1)],
    "sharded and replicated": [(0, [Shard(0)]), (0, [Replicate()])] * 2 + [(0, [Shard(1)])],
    "replicated": [(0, [Replicate()])] * 5,
    "sharded and plain": [(0, [Shard(0)]), None, (0, [Shard(0)]), None, (0, [Replicate()])],
    "over two meshes": [
        (0, [Shard(0)]),
        (1, [Replicate(), Shard(0)]),
        None,
        (1, [Shard(0), Shard(1)]),
        (0, [Shard(1)]),
    ],
}


def whole(bad=None):
    """Return the gradients as one process holds them."""
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if bad is not None:
        grads[0][-1, -1] = bad
    return grads


def parameters(kind, meshes, grads):
    found = []
    for grad, place in zip(grads, KINDS[kind], strict=True):
        put = grad.clone() if place is None else distribute_tensor(grad.clone(), meshes[place[0]], place[1])
        found.append(torch.nn.Parameter(torch.zeros_like(put)))
        found[-1].grad = put
    return found


def full(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def scene(kind, meshes):
    """Return what every function makes of the gradients, and how many messages it took."""
    seen = {}
    for order in ORDERS:
        given = parameters(kind, meshes, whole())
        with CommDebugMode() as messages:
            norm = tonsor.clip_grad_norm_(given, 2.0, order)
        seen[order] = [full(norm), *(full(p.grad) for p in given)]
        seen["messages", order] = messages.get_total_counts()
        seen["sharded", order] = isinstance(norm, DTensor)
    for bad in (math.nan, math.inf):
        given = parameters(kind, meshes, whole(bad))
        seen["bad", str(bad)] = [full(tonsor.clip_grad_norm_(given, 2.0, order)) for order in ORDERS[:5]]
    given = parameters(kind, meshes, whole())
    tonsor.clip_grad_value_(given, 0.5)
    seen["value"] = [full(p.grad) for p in given]
    total = tonsor.get_total_norm([p.grad for p in given])
    tonsor.clip_grads_with_norm_(given, 1.0, total)
    seen["halves"] = [full(p.grad) for p in given]
    return seen


def fsdp(mesh, module):
    """Return what a module's functions make of a model that FSDP2 shards: the norm and the gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 17), torch.nn.Tanh(), torch.nn.Linear(17, 3))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    model(torch.ones(5, 8)).square().sum().backward()
    norm = module.clip_grad_norm_(model.parameters(), 0.5, error_if_nonfinite=True)
    return [full(norm), *(full(p.grad) for p in model.parameters())]


def work(rank, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    meshes = [init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))]
    seen = {kind: scene(kind, meshes) for kind in KINDS}
    seen["fsdp"] = {"ours": fsdp(meshes[0], tonsor), "torch": fsdp(meshes[0], torch.nn.utils)}
    unsummed = torch.zeros(2, requires_grad=True)
    grad = DTensor.from_local(torch.tensor([1.5, 2.0]), meshes[0], [Partial()])
    seen["unsummed"] = full(tonsor.get_total_norm([grad, unsummed.detach()]))
    results.put((rank, torch.utils._pytree.tree_map(lambda x: x.numpy() if torch.is_tensor(x) else x, seen)))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return results_by_rank(work, tmp_path_factory.mktemp("gloo"))


def alone(call):
    """Return the gradients after the call in one process."""
    given = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in whole()]
    for parameter, grad in zip(given, whole(), strict=True):
        parameter.grad = grad
    norm = call(given)
    return [*([] if norm is None else [norm]), *(p.grad for p in given)]


def assert_close(got, want):
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(torch.as_tensor(left), right.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_parts_are_clipped_as_whole_ones(seen, kind, rank):
    got = seen[rank][kind]
    for order in ORDERS:
        assert_close(got[order], alone(partial(tonsor.clip_grad_norm_, max_norm=2.0, norm_type=order)))
    assert_close(got["value"], alone(partial(tonsor.clip_grad_value_, clip_value=0.5)))
    assert math.hypot(*(float((grad**2).sum() ** 0.5) for grad in got["halves"])) == pytest.approx(
        1, rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_know_the_same_norm_bit_for_bit(seen, kind):
    for order in ORDERS:
        assert seen[0][kind][order][0] == seen[1][kind][order][0]


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_or_infinity_in_one_part_is_seen_by_all(seen, kind, rank):
    wants = {math.nan: math.isnan, math.inf: lambda norm: norm == math.inf}
    for bad, is_so in wants.items():
        orders = zip(ORDERS, seen[rank][kind]["bad", str(bad)], strict=False)
        assert all(is_so(float(norm)) for order, norm in orders if order)


@pytest.mark.parametrize("order", ORDERS)
def test_the_norm_takes_one_message_for_each_dimension_that_shards(seen, order):
    counts = {kind: seen[0][kind]["messages", order] for kind in KINDS}
    assert counts.pop("replicated") == 0
    assert counts.pop("over two meshes") == 1 + 1  # a dimension of one process needs none
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_on_one_mesh_the_norm_is_a_sharded_tensor_as_in_torch(seen, kind):
    is_one = "plain" not in kind and "two" not in kind
    assert seen[0][kind]["sharded", 2.0] == is_one


@pytest.mark.parametrize("rank", range(2))
def test_a_model_that_fsdp_shards_is_clipped_as_by_torch(seen, rank):
    ours, theirs = seen[rank]["fsdp"]["ours"], seen[rank]["fsdp"]["torch"]
    assert ours[0] > 0.5
    assert_close(ours, [torch.from_numpy(each) if each.ndim else torch.tensor(each) for each in theirs])


def test_partial_sums_are_added_before_they_are_measured(seen):
    assert float(seen[0]["unsummed"]) == float(seen[1]["unsummed"]) == 5
