"""What every rule promises: the groups it leads to can be cut, and the cut model computes the same."""

import copy
import inspect
import re

import pytest
import torch
from torch import nn

from tonsor.shrink import RULES, channel_groups, shrink_
from tonsor.shrink.calls_test import CASES, UNITS
from tonsor.shrink.node import key
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow

aten = torch.ops.aten
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
        self.gates = nn.ParameterList(torch.randn(gates * UNITS, UNITS) for gates in range(5))
        self.register_buffer("grid", torch.rand(2, 3, 3, 2))
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
    elif kind in ("reduce", "measure"):
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
