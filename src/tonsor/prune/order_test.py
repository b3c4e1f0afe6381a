import pytest
import torch
from torch import nn

from tonsor.prune.layers import layer_of
from tonsor.prune.order import plan


class Block(nn.Module):
    """A block of three layers, two of which are fed the same; it returns a tuple where it is asked to."""

    def __init__(self, is_tuple=False):
        super().__init__()
        self.query, self.key, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.is_tuple = is_tuple

    def forward(self, x, mask=None, cache=None, scale=1.0):
        y = x + scale * self.out((self.query(x) * self.key(x)).relu())
        return (y, None) if self.is_tuple else y


class Stacked(nn.Module):
    """An embedding layer, blocks that are handed something more, and a head."""

    def __init__(self, more, is_tuple=False):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList(Block(is_tuple) for _ in range(3))
        self.more = more

    def forward(self, x):
        x = self.first(x)
        mask = torch.ones(2)
        for number, block in enumerate(self.blocks):
            x = block(x, **self.more(number, mask))
            x = x[0] if isinstance(x, tuple) else x
        return self.last(x)


def planned(model):
    names = [name for name, p in model.named_parameters() if p.ndim > 1]
    parts = plan(model, [layer_of(model, name) for name in names], (torch.randn(3, 4),), {})
    return [
        (
            part.block is not None,
            [[layer.name.removesuffix(".weight") for layer in g.layers] for g in part.groups],
        )
        for part in parts
    ]


@pytest.mark.parametrize("is_tuple", [False, True])
def test_blocks_that_hand_on_their_output_are_a_chain(is_tuple):
    model = Stacked(lambda number, mask: {"mask": mask, "scale": 0.5}, is_tuple)
    inside = [(True, [[f"blocks.{n}.query", f"blocks.{n}.key"], [f"blocks.{n}.out"]]) for n in range(3)]
    assert planned(model) == [(False, [["first"]]), *inside, (False, [["last"]])]


@pytest.mark.parametrize(
    "more",
    [
        lambda number, mask: {"mask": mask + number},
        lambda number, mask: {"scale": float(number)},
        lambda number, mask: {"cache": object},
    ],
    ids=["a mask of its own", "a number of its own", "an object that may change"],
)
def test_blocks_that_are_called_unlike_are_no_chain(more):
    ((is_block, groups),) = planned(Stacked(more))
    assert not is_block
    assert groups[0] == ["first"]
    assert len(groups) == 8


def test_a_module_called_twice_is_no_block_of_a_chain():
    block = Block()
    model = nn.Sequential(block, block, nn.Linear(4, 2))
    ((is_block, groups),) = planned(model)
    assert not is_block
    assert groups == [["0.query", "0.key"], ["0.out"], ["2"]]


def test_an_output_written_to_in_between_is_no_chain():
    class Writing(nn.Sequential):
        def forward(self, x):
            x = self[0](x)
            x.mul_(2)
            return self[1](x)

    assert [is_block for is_block, _ in planned(Writing(nn.Linear(4, 4), nn.Linear(4, 2)))] == [False]


def test_the_chain_that_holds_most_layers_is_taken():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    parts = planned(nn.Sequential(inner, nn.Flatten(), nn.Linear(4, 2)))
    assert parts == [(True, [["0.0"], ["0.2"]]), (True, []), (True, [["2"]])]
