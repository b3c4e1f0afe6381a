"""What a masked model still reads: the graph is run once on numbers and labels together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tonsor.shrink.compact import some
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.interpret import Interpreter
from tonsor.shrink.mixing import restless
from tonsor.shrink.trace import MODEL_ERRORS, Trace, gpus_of, named_tensors
from tonsor.shrink.value import Contraction

BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # modules that can be given a bias


@dataclass(frozen=True)
class Reading:
    """Say what one sum over channels reads in the masked model.

    Args:
        rows: The root label of each channel it makes.
        columns: The root label of each channel it reads.
        reads: Boolean `(rows, columns)`: the weight between them is not zero.
        steady: Which of the channels it reads are constant, whatever the model is given.
        constant: What these are, in float64.
        totals: The weights summed over positions, `(rows, columns)`, in the weight's own type.
        bare: The sum of a constant is the same at every position.
        bias: The parameter that can take a constant, empty if there is none.

    Example:
        >>> row, yes = torch.tensor([1]), torch.tensor([True])
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> reading = Reading(row, row, yes[None], yes, 2 * one, one[None], True, "head.bias")
        >>> reading.folded(yes)
        tensor([2.], dtype=torch.float64)
    """

    rows: Tensor
    columns: Tensor
    reads: Tensor
    steady: Tensor
    constant: Tensor
    totals: Tensor
    bare: bool
    bias: str

    def blocked(self, gone: Tensor) -> Tensor:
        """Return the columns that must stay, given which labels go: those that are read in earnest."""
        needed = some(self.reads[~gone[self.rows]], 0)
        foldable = self.steady if self.bare and self.bias else self.steady & (self.constant == 0)
        return needed & ~foldable

    def folded(self, removed: Tensor) -> Tensor:
        """Return what the removed columns add to each row."""
        own = (removed & (self.constant != 0) & some(self.reads, 0)).nonzero().flatten()
        return torch.where(self.reads[:, own], self.totals[:, own].double(), 0) @ self.constant[own]


def survey(model: nn.Module, groups: ChannelGroups) -> list[Reading]:
    """Return what each sum over channels reads.

    A channel is constant if no element of it can change with the input, found by following what is
    not zero through the graph, and if it has one value at all positions when the example is run.

    Args:
        model: The masked model, in eval mode; its buffers are not touched.
        groups: Its groups.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1))
        >>> model[0].weight.data[0], model[0].bias.data[0] = 0.0, 0.0
        >>> reading = survey(model, channel_groups(model, torch.ones(1, 1)))[1]
        >>> reading.steady.tolist(), float(reading.constant[0])
        ([True, False], 0.5)
    """
    tensors = named_tensors(model)
    trace = groups.trace
    own = {
        name: tensors[name].detach().clone() if name in trace.buffers else tensors[name].detach()
        for name in trace.shapes
    }
    example = {
        name: given.detach().clone() if isinstance(given, Tensor) else given
        for name, given in trace.inputs.items()
    }
    uses = _uses(trace)
    readings: list[Reading] = []

    def watch(contraction: Contraction) -> None:
        readings.append(_reading(contraction, groups.roots, _home(model, contraction, uses)))

    with torch.random.fork_rng(devices=gpus_of(model)):
        try:
            Interpreter(trace, own, example, watch, set(groups.unruled)).run()
        except MODEL_ERRORS as error:
            raise ValueError(
                f"shrink.shrink_: the graph of {type(model).__name__} cannot be run step by step: {error}"
            ) from error
    runs = Counter(reading.bias for reading in readings)
    return [reading if runs[reading.bias] == 1 else replace(reading, bias="") for reading in readings]


def _home(model: nn.Module, contraction: Contraction, uses: Mapping[str, int]) -> str:
    """Return the bias that is used here alone, or that the module could be given; else nothing."""
    if contraction.bias is not None:
        return contraction.bias.name if uses[contraction.bias.name] == 1 else ""
    path, _, leaf = contraction.weight.rpartition(".")
    if leaf != "weight" or uses[contraction.weight] != 1:
        return ""
    module = model.get_submodule(path)
    lacks = isinstance(module, BIASED) and module.bias is None
    return f"{path}.bias".lstrip(".") if lacks else ""


def _uses(trace: Trace) -> Mapping[str, int]:
    """Return how often each parameter is used."""
    uses: Counter[str] = Counter()
    for node in trace.graph.nodes:
        if node.name in trace.sources:
            uses[trace.sources[node.name]] += len(node.users)
    return uses


def _reading(contraction: Contraction, roots: Tensor, bias: str) -> Reading:
    """Return what is known of a sum while its input is there."""
    weight = contraction.full().detach()
    steady, constant = _constants(contraction)
    rows, columns = roots[contraction.rows], roots[contraction.columns]
    reads = (weight != 0).cpu()
    reads = some(reads, 2) if weight.shape[2] != 1 else reads[..., 0]
    if torch.isin(columns[columns > 0], rows).any():
        reads &= rows[:, None] != columns  # a channel does not hold itself
    totals = (weight[..., 0] if weight.shape[2] == 1 else weight.sum(2)).cpu()
    return Reading(rows, columns, reads, steady, constant, totals, contraction.bare, bias)


def _constants(contraction: Contraction) -> tuple[Tensor, Tensor]:
    """Return which channels are constant, and their values."""
    x, channels = contraction.x, len(contraction.columns)
    real = x.real
    if real is None or not real.is_floating_point():
        return torch.zeros(channels, dtype=torch.bool), torch.zeros(channels, dtype=torch.float64)
    elsewhere = [dim for dim in range(x.ndim) if dim != contraction.dim]
    live = _lines(restless(x, elsewhere), contraction.dim).any(0).expand(channels)
    still = (~live).nonzero().flatten()
    constant = torch.zeros(channels, dtype=torch.float64)
    if len(still):
        values = _lines(real.index_select(contraction.dim, still.to(real.device)), contraction.dim)
        constant[still] = torch.where((values == 0).all(0), 0, values[0]).double().cpu()
    return ~live, constant


def _lines(tensor: Tensor, dim: int) -> Tensor:
    """Return the tensor as (positions, channels)."""
    moved = tensor.movedim(dim, -1)
    return moved.reshape(-1, moved.shape[-1])
