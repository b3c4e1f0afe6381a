"""What every rule promises: the groups it leads to can be cut, and the cut model computes the same."""

import copy
import inspect
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tonsor.shrink import RULES, channel_groups, shrink_
from tonsor.shrink.node import key
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow

aten = torch.ops.aten
UNITS = 6

# How an operation is called on a value `h` of shape (2, 6, 4, 4) and on a second one like it, where `called`
# would not find out by itself: a new rule of an elementwise operation is tested at once.
CASES = {
    "linear": lambda net, h, _: F.linear(h.mean((2, 3)), net.matrix, net.vector),
    "matmul": lambda net, h, _: torch.matmul(h.movedim(1, -1), net.matrix.t()),
    "bmm": lambda net, h, _: torch.bmm(net.matrix.expand(2, -1, -1), h.flatten(2)),
    "mv": lambda net, h, _: torch.mv(net.matrix, h.mean((0, 2, 3)))[None].expand(2, -1),
    "dot": lambda net, h, g: h * torch.dot(h.mean((0, 2, 3)), g.mean((0, 2, 3))),
    "einsum": lambda net, h, _: torch.einsum("bc...,oc->bo...", h, net.matrix),
    "scaled_dot_product_attention": lambda net, h, g: F.scaled_dot_product_attention(h, g, h),
    "addmv": lambda net, h, _: torch.addmv(net.vector, net.matrix, h.mean((0, 2, 3)))[None].expand(2, -1),
    "baddbmm": lambda net, h, g: torch.baddbmm(h.flatten(2), net.matrix.expand(2, -1, -1), g.flatten(2)),
    "mm": lambda net, h, _: torch.mm(h.mean((2, 3)), net.matrix.t()),
    "addmm": lambda net, h, _: torch.addmm(net.vector, h.mean((2, 3)), net.matrix.t()),
    "conv1d": lambda net, h, _: F.conv1d(h.flatten(2), net.matrix[:, :, None], net.vector),
    "conv2d": lambda net, h, _: F.conv2d(h, net.kernel, net.vector, padding=1),
    "conv3d": lambda net, h, _: F.conv3d(h[:, :, None], net.kernel[:, :, None], net.vector),
    "conv_transpose1d": lambda net, h, _: F.conv_transpose1d(
        h.flatten(2), net.matrix[:, :, None], net.vector
    ),
    "conv_transpose2d": lambda net, h, _: F.conv_transpose2d(h, net.kernel, net.vector, stride=2),
    "conv_transpose3d": lambda net, h, _: F.conv_transpose3d(h[:, :, None], net.kernel[:, :, None]),
    "embedding": lambda net, h, _: h + F.embedding(net.places, net.matrix)[:, :, None, None],
    "prelu": lambda net, h, _: F.prelu(h, net.vector),
    "batch_norm": lambda net, h, _: F.batch_norm(h, net.mean, net.mean, net.vector, net.vector),
    "instance_norm": lambda net, h, _: F.instance_norm(h, weight=net.vector, bias=net.vector),
    "group_norm": lambda net, h, _: F.group_norm(h, h.shape[1], net.vector, net.vector),
    "layer_norm": lambda net, h, _: F.layer_norm(h, (4, 4)),
    "rms_norm": lambda net, h, _: F.rms_norm(h, (4, 4)),
    "threshold": lambda net, h, _: F.threshold(h, 0.1, 20.0),
    "clamp": lambda net, h, _: h.clamp(-0.1, 0.1),
    "clip": lambda net, h, _: h.clip(-0.1, 0.1),
    "copy": lambda net, h, g: torch.empty_like(h).copy_(g) + h,
    "__and__": lambda net, h, g: (h > 0.5) & (g > 0.5),
    "__or__": lambda net, h, g: (h > 0.5) | (g > 0.5),
    "__xor__": lambda net, h, g: (h > 0.5) ^ (g > 0.5),
    "bitwise_and": lambda net, h, g: torch.bitwise_and(h > 0.5, g > 0.5),
    "bitwise_or": lambda net, h, g: torch.bitwise_or(h > 0.5, g > 0.5),
    "bitwise_xor": lambda net, h, g: torch.bitwise_xor(h > 0.5, g > 0.5),
    "bitwise_not": lambda net, h, _: ~(h > 0.5),
    "linalg_vector_norm": lambda net, h, _: torch.linalg.vector_norm(h, dim=2),
    "norm": lambda net, h, _: aten.norm(h, 2, [2]),
    "fill": lambda net, h, _: h * aten.fill(h, 2.0),
    "acosh": lambda net, h, _: torch.acosh(h + 1),
    "where": lambda net, h, g: torch.where(h > 0.5, h, g),
    "masked_fill": lambda net, h, g: h.masked_fill(g > 0.5, 1.0),
    "lerp": lambda net, h, g: torch.lerp(h, g, 0.3),
    "to": lambda net, h, _: h.to(h.dtype, copy=True),
    "swapaxes": lambda net, h, _: aten.swapaxes(h, 1, 2),
    "full_like": lambda net, h, _: h * torch.full_like(h, 2.0),
    "ones_like": lambda net, h, _: h + torch.ones_like(h),
    "zeros_like": lambda net, h, _: h + torch.zeros_like(h),
    "empty_like": lambda net, h, _: torch.empty_like(h).fill_(1.0) * h,
    "ones": lambda net, h, _: h + torch.ones(2, 6, 1, 1),
    "zeros": lambda net, h, _: h + torch.zeros(2, 6, 4, 4),
    "full": lambda net, h, _: h + torch.full((1, 6, 4, 4), 2.0),
    "empty": lambda net, h, _: h + torch.empty(2, 6, 4, 4).fill_(0.5),
    "new_ones": lambda net, h, _: h + h.new_ones(4, 4),
    "new_zeros": lambda net, h, _: h + h.new_zeros(1),
    "new_full": lambda net, h, _: h + h.new_full((4, 1), 2.0),
    "new_empty": lambda net, h, _: h + h.new_empty(4).fill_(1.0),
    "_unsafe_view": lambda net, h, _: aten._unsafe_view(h, [2, -1, 16]),
    "broadcast_to": lambda net, h, _: h.mean(3, keepdim=True).broadcast_to(-1, -1, 4, 5),
    "expand": lambda net, h, _: h.mean(3, keepdim=True).expand(-1, -1, -1, 5),
    "expand_as": lambda net, h, g: h.mean(3, keepdim=True).expand_as(g),
    "flip": lambda net, h, _: h.flip(1),
    "movedim": lambda net, h, _: h.movedim(1, 3),
    "permute": lambda net, h, _: h.permute(0, 2, 3, 1),
    "pixel_shuffle": lambda net, h, _: F.pixel_shuffle(aten.repeat_interleave(h, 4, 1), 2),
    "pixel_unshuffle": lambda net, h, _: F.pixel_unshuffle(h, 2),
    "repeat": lambda net, h, _: h.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda net, h, _: aten.repeat_interleave(h, 2, 1),
    "reshape": lambda net, h, _: h.reshape(2, -1),
    "reshape_as": lambda net, h, g: h.reshape_as(g.flatten(1)),
    "t": lambda net, h, _: h.mean((2, 3)).t().t(),
    "tile": lambda net, h, _: h.tile(1, 2, 1, 1),
    "transpose": lambda net, h, _: h.transpose(1, 3),
    "unflatten": lambda net, h, _: h.unflatten(3, (2, 2)),
    "view": lambda net, h, _: h.view(2, -1, 2, 8),
    "view_as": lambda net, h, g: h.view_as(g.flatten(1)),
    "ravel": lambda net, h, _: h.ravel().reshape(2, -1),
    "flatten": lambda net, h, _: h.flatten(1),
    "narrow": lambda net, h, _: aten.narrow(h, 2, 1, 2),
    "roll": lambda net, h, _: h.roll(1, 2),
    "select": lambda net, h, _: h[:, :, 1],
    "slice": lambda net, h, _: h[:, :, 1:],
    "split": lambda net, h, _: h.split(2, 2)[1],
    "split_with_sizes": lambda net, h, _: aten.split_with_sizes(h, [1, 3], 2)[1],
    "unbind": lambda net, h, _: h.unbind(2)[1],
    "index": lambda net, h, _: h[:, :, net.places[:1]],
    "index_select": lambda net, h, _: h.index_select(2, net.places[:1]),
    "chunk": lambda net, h, g: torch.cat([h, g], 1).chunk(2, 1)[0],
    "glu": lambda net, h, g: F.glu(torch.cat([h, g], 1), 1),
    "cat": lambda net, h, g: torch.cat([h, torch.cat([g, h], 2)[:, :, :4]], 1),
    "concat": lambda net, h, g: torch.concat([h, g], 1),
    "stack": lambda net, h, g: torch.stack([h, g], 1),
    "pad": lambda net, h, _: aten.pad(h, [1, 0, 0, 1], "reflect"),
    "constant_pad_nd": lambda net, h, _: aten.constant_pad_nd(h, [1, 1, 0, 0, 2, 1]),
}
NAMES = sorted(name.removeprefix("aten.") for name in RULES)
KINDS = {rule.__name__: rule for rule in RULES.values()}
OWN = {kind: [name for name in NAMES if RULES[f"aten.{name}"] is rule] for kind, rule in KINDS.items()}
PORTIONS = {
    f"{kind}: {names[start]}...": names[start : start + 20]
    for kind, names in OWN.items()
    for start in range(0, len(names), 20)
}


class Around(nn.Module):
    """Channels are made, go through one operation, and are read."""

    def __init__(self, name: str):
        super().__init__()
        self.made, self.beside = nn.Linear(2, UNITS), nn.Linear(2, UNITS)
        self.matrix = nn.Parameter(torch.randn(UNITS, UNITS))
        self.vector = nn.Parameter(torch.rand(UNITS) + 0.5)
        self.kernel = nn.Parameter(torch.randn(UNITS, UNITS, 3, 3))
        self.register_buffer("mean", torch.rand(UNITS) + 0.5)
        self.register_buffer("places", torch.tensor([3, 1]))
        self.name, self.read = name, nn.Identity()
        with torch.no_grad():
            self.read = nn.Linear(self(torch.randn(2, 4, 4, 2)).shape[1], 3)

    def forward(self, x):
        h, g = (torch.sigmoid(layer(x)).movedim(-1, 1) for layer in (self.made, self.beside))
        h, g = h.contiguous(), g.contiguous()
        out = CASES[self.name](self, h, g) if self.name in CASES else called(self.name, h, g)
        out = out[0] if isinstance(out, tuple) else out
        return self.read(out.to(x.dtype).reshape(2, -1))


def called(name, h, g):
    """Call an operation in the first way that it takes."""
    packet, _, overload = name.partition(".")
    op = getattr(getattr(aten, packet), overload) if overload else getattr(aten, packet)
    kind = RULES[f"aten.{name}"].__name__
    if kind == "spatial":
        count = int(re.search(r"(\d)d", name)[1])
        h = {1: h.flatten(2), 2: h, 3: h[:, :, None].expand(-1, -1, 2, -1, -1)}[count]
        ways = [(h, [2] * count), (h, [2] * count, False)]
    elif kind == "reduce":
        ways = [(h, [2]), (h, 2), (h, 2, [2])]
    elif kind == "dropout":
        ways = [(h, 0.5, False)]
    else:
        ways = [(h,), (h, g), (h, g, g), (h > 0.5, g > 0.5), (h > 0.5,), (h, 2)]
    for way in ways:
        try:
            return op(*way)
        except (RuntimeError, TypeError, NotImplementedError):
            continue
    raise AssertionError(f"say in CASES how aten.{name} is called")


def operations(groups):
    """Return the names in the table of all operations in the graph."""
    ops = [node.target for node in groups.trace.graph.nodes if node.op == "call_function"]
    ops = [op for op in ops if isinstance(op, torch._ops.OpOverload)]
    return {key(op, overload=overload) for op in ops for overload in (True, False)}


class Beside(nn.Module):
    """Operations of one rule beside one another: one graph for many."""

    def __init__(self, names):
        super().__init__()
        self.parts = nn.ModuleList(Around(name) for name in names)

    def forward(self, x):
        return [part(x) for part in self.parts]


@pytest.mark.parametrize("names", PORTIONS.values(), ids=PORTIONS)
def test_what_goes_through_an_operation_can_be_cut_and_computes_the_same(names):
    torch.manual_seed(0)
    model, x = Beside(names).double(), torch.randn(2, 4, 4, 2).double()
    groups = channel_groups(model, x)
    assert {f"aten.{name}" for name in names} <= operations(groups)
    assert not [group.reason for group in groups.frozen if "rule" in group.reason]
    made = {f"parts.{i}.made.weight": name for i, name in enumerate(names)}
    found = {p.parameter: g for g in groups.groups.values() for p in g.slices if p.dim == 0}
    assert {name: found[weight].units for weight, name in made.items()} == dict.fromkeys(names, UNITS)
    keep = {group: torch.arange(each.units) % 3 != 1 for group, each in groups.groups.items()}
    masks = groups.expand(keep, dict(model.named_parameters()))
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    shrunk = shrink_(model, groups, masks)
    assert all(shrunk.removed[found[weight].name] == [1, 4] for weight in made)
    fresh = torch.randn(2, 4, 4, 2).double()
    for name, got, wanted in zip(names, model(fresh), masked(fresh), strict=True):
        assert got.isfinite().all(), name
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("rule", KINDS.values(), ids=KINDS)
def test_a_rule_takes_a_call_and_the_labels_and_nothing_else(rule):
    kinds = [parameter.kind for parameter in inspect.signature(rule).parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_ONLY] * 2


def test_every_case_is_of_a_rule():
    assert set(CASES) <= set(NAMES)
