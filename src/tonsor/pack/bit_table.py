"""What each weight of a model takes and costs with each number of bits: measured once, to choose from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tonsor.pack.by_kmeans import kmeans
from tonsor.pack.coding import Coding
from tonsor.pack.encode import encode
from tonsor.pack.named import State, check_masks, in_threads, masked, told, untied
from tonsor.pack.share import bits_of
from tonsor.pack.shared import Shared, Sharing

CHOICES = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class BitTable:
    """Say what each weight takes and costs with each number of bits; `bit_table` measures it.

    Args:
        whole: All tensors, masked, by name.
        measure: From tensors by name to a loss.
        rest: Bytes of what is not shared.
        steps: By name and bits: the shared weight, its bytes, and the loss with it alone.

    Example:
        >>> import torch
        >>> table = bit_table({"w": torch.arange(64.0).view(8, 8)}, [2, 4])
        >>> table.bytes({"w": 2}) < table.bytes({"w": 4}), table.loss({"w": 2}) > table.loss({"w": 4})
        (True, True)
    """

    whole: Mapping[str, Tensor]
    measure: Callable[[Mapping[str, Tensor]], float]
    rest: int
    steps: Mapping[str, Mapping[int, tuple[Shared, int, float]]]

    def bytes(self, bits: Mapping[str, int]) -> int:
        """Return the bytes of everything."""
        return self.rest + sum(self.steps[name][count][1] for name, count in bits.items())

    def loss(self, bits: Mapping[str, int]) -> float:
        """Return the loss of all weights together."""
        values = {name: shared.values() for name, shared in self.shared(bits).items()}
        return self.measure({**self.whole, **values})

    def shared(self, bits: Mapping[str, int]) -> dict[str, Shared]:
        """Return the weights as they are shared with these bits."""
        return {name: self.steps[name][count][0] for name, count in bits.items()}

    def below(self, name: str, bits: int) -> int | None:
        """Return the next lower number of bits that saves bytes."""
        fewer = [
            b for b, step in self.steps[name].items() if b < bits and step[1] < self.steps[name][bits][1]
        ]
        return max(fewer, default=None)

    def price(self, name: str, bits: int) -> float:
        """Return the loss that a byte costs which the next step down saves."""
        lower = self.below(name, bits)
        if lower is None:
            return -float("inf")  # there is none; it is looked at at once, and left
        (_, size, loss), (_, less, more) = self.steps[name][bits], self.steps[name][lower]
        return max(0.0, more - loss) / (size - less)


def bit_table(
    state: State,
    choices: Sequence[int],
    /,
    *,
    masks: Mapping[str, Tensor] | None = None,
    sharing: Sharing = kmeans,
    measure: Callable[[Mapping[str, Tensor]], float] | None = None,
    names: Collection[str] | None = None,
) -> BitTable:
    """Share and pack every weight with every number of bits, and measure what each does alone.

    Args:
        state: A model, or tensors by name; it is left as it is. Tied tensors are there once.
        choices: The numbers of bits, each from 2 to 8.
        masks: As `share` takes them.
        sharing: A rule of `SHARINGS`.
        measure: From tensors by name to a loss; the squared error of the weights if not given.
        names: What may share values; floats of two dimensions or more if not given.

    Raises:
        ValueError: If a number of bits is none, or a weight cannot be shared.

    Example:
        >>> import torch
        >>> list(bit_table({"w": torch.ones(2, 2), "b": torch.ones(9)}, [2, 3], names=["b"]).steps["b"])
        [2, 3]
    """
    if not choices or not set(choices) <= set(range(2, 9)):
        raise ValueError(
            f"pack.find_bits: choices must be whole numbers between 2 and 8; got {list(choices)}"
        )
    tensors, _ = untied(state)
    check_masks(tensors, masks or {})
    whole = {name: masked(name, tensors, masks or {}) for name in tensors}
    coding, choices = Coding(), sorted(set(choices))
    measured = measure or _squared_error(whole)
    able = bits_of(whole, choices[-1] if names is None else dict.fromkeys(names, choices[-1]))

    def steps(name: str) -> dict[int, tuple[Shared, int]]:
        shared = {bits: told(name, sharing, whole[name], bits=bits) for bits in choices}
        return {bits: (done, len(encode(done, coding).payload)) for bits, done in shared.items()}

    found = in_threads(steps, able, coding.threads)
    rest = sum(
        len(told(name, encode, tensor, coding).payload) for name, tensor in whole.items() if name not in able
    )
    return BitTable(
        whole,
        measured,
        rest,
        {
            name: {
                b: (done, size, measured({**whole, name: done.values()})) for b, (done, size) in tried.items()
            }
            for name, tried in found.items()
        },
    )


def _squared_error(whole: Mapping[str, Tensor]) -> Callable[[Mapping[str, Tensor]], float]:
    """Return a function from tensors to their squared distance, each relative to its own squared sum."""

    def error(tensors: Mapping[str, Tensor]) -> float:
        found = 0.0
        for name, tensor in tensors.items():
            if tensor is not whole[name]:
                wide = whole[name].double()
                found += float(
                    (tensor.double() - wide).square().sum() / wide.square().sum().clamp_min(1e-300)
                )
        return found

    return error
