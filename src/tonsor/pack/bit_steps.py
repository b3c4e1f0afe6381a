"""The way from the most bits to the fewest, one weight at a time, and what each step takes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tonsor.pack.bit_table import CHOICES, BitTable, bit_table
from tonsor.pack.by_kmeans import kmeans
from tonsor.pack.named import State
from tonsor.pack.shared import Shared, Sharing


@dataclass(frozen=True)
class BitPath:
    """Hold the bits of every weight at each step down, from the most to the fewest.

    Args:
        bits: By name, step by step.
        bytes: What all tensors take packed so, without the header of a file; less with every step.
        table: What was measured of each weight.

    Example:
        >>> import torch
        >>> path = bit_path({"w": torch.arange(64.0).view(8, 8)}, choices=(2, 4, 8))
        >>> [step["w"] for step in path.bits], path.bytes == sorted(path.bytes, reverse=True)
        ([8, 4, 2], True)
    """

    bits: list[dict[str, int]]
    bytes: list[int]
    table: BitTable

    def shared(self, step: int) -> dict[str, Shared]:
        """Return the weights as they are shared at a step, for `finetune_` and `pack`."""
        return self.table.shared(self.bits[step])


def bit_path(
    state: State,
    /,
    *,
    measure: Callable[[Mapping[str, Tensor]], float] | None = None,
    choices: Sequence[int] = CHOICES,
    masks: Mapping[str, Tensor] | None = None,
    sharing: Sharing = kmeans,
    names: Collection[str] | None = None,
) -> BitPath:
    """Find in which order the weights of a model shall lose bits, from one table of what each costs.

    Every weight begins with the most bits; each step takes the one that costs the least loss for the bytes
    it saves. It is the way that `find_bits` goes to its budget, whole, so that many budgets can be asked of
    one table.

    Args:
        state: A model, or tensors by name; it is left as it is.
        measure: As `find_bits` takes it; it is called once for each weight and number of bits.
        choices: The numbers of bits to choose from.
        masks: As `share` takes them.
        sharing: A rule of `SHARINGS`, with its other settings bound.
        names: What may share values; floats of two dimensions or more if not given.

    Returns:
        The steps, the first with the most bits.

    Raises:
        ValueError: If a number of bits is none, or a weight cannot be shared.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> state = {"fine": torch.randn(64, 64), "rough": torch.randn(64, 64).sign()}
        >>> path = bit_path(state, choices=(2, 4))
        >>> path.bits    # what has two values needs no more than two bits
        [{'fine': 4, 'rough': 4}, {'fine': 2, 'rough': 4}]
    """
    table = bit_table(state, choices, masks=masks, sharing=sharing, measure=measure, names=names)
    steps = [{name: max(choices) for name in table.steps}]
    while able := _able(table, steps[-1]):
        name = min(sorted(able), key=lambda name: table.price(name, steps[-1][name]))
        steps.append({**steps[-1], name: able[name]})
    return BitPath(steps, [table.bytes(bits) for bits in steps], table)


def _able(table: BitTable, bits: Mapping[str, int]) -> dict[str, int]:
    """Return the next lower bits of each weight that has some."""
    lower = {name: table.below(name, count) for name, count in bits.items()}
    return {name: count for name, count in lower.items() if count is not None}
