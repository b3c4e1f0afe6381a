"""Bits for each weight, so that the whole keeps a budget of bytes, or of loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tonsor.pack.by_kmeans import kmeans
from tonsor.pack.coding import Coding
from tonsor.pack.encode import encode
from tonsor.pack.named import State, check_masks, in_threads, masked, told, untied
from tonsor.pack.share import bits_of
from tonsor.pack.shared import Shared, Sharing


@dataclass(frozen=True)
class Chosen:
    """Say which bits were found, and what they come to.

    Args:
        bits: By name: hand it to `share` or `pack`.
        bytes: Of all tensors packed so, without the header of a file.
        loss: What was measured with them; the squared error where nothing was measured.

    Example:
        >>> Chosen({"w": 3}, 812, 0.31).bits
        {'w': 3}
    """

    bits: dict[str, int]
    bytes: int
    loss: float


def find_bits(
    state: State,
    /,
    *,
    max_bytes: int | None = None,
    max_loss: float | None = None,
    measure: Callable[[Mapping[str, Tensor]], float] | None = None,
    choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
    masks: Mapping[str, Tensor] | None = None,
    sharing: Sharing = kmeans,
) -> Chosen:
    """Find bits for each weight that meet a budget of bytes, or of loss, at the least of the other.

    Every weight begins with the most bits. The step down that costs the least loss for the bytes it saves is
    taken again and again; what a step costs is measured once for each weight and number of bits, with all
    other weights whole. With `max_loss` a step after which the loss of all together is above it is taken
    back, and that weight stays.

    Args:
        state: A model, or tensors by name; it is left as it is.
        max_bytes: What all tensors packed may take, those that are not shared too.
        max_loss: The most that `measure` may give; give one of the two.
        measure: From tensors by name to a loss on validation data, lower is better; the squared error of
            the weights, relative to their squared sum, if not given.
        choices: The numbers of bits to choose from.
        masks: As `share` takes them.
        sharing: A rule of `SHARINGS`, with its other settings bound.

    Returns:
        The bits with what they come to.

    Raises:
        ValueError: If not exactly one budget is given, or it cannot be met: says the nearest that can.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> state = {"fine": torch.randn(64, 64), "rough": torch.randn(64, 64).sign()}
        >>> chosen = find_bits(state, max_bytes=2600)
        >>> chosen.bits["fine"], chosen.bytes <= 2600
        (4, True)
    """
    if (max_bytes is None) == (max_loss is None):
        raise ValueError(f"pack.find_bits: give one budget; got max_bytes={max_bytes}, max_loss={max_loss}")
    if not choices or not set(choices) <= set(range(2, 9)):
        raise ValueError(
            f"pack.find_bits: choices must be whole numbers between 2 and 8; got {list(choices)}"
        )
    tensors, _ = untied(state)
    check_masks(tensors, masks or {})
    whole = {name: masked(name, tensors, masks or {}) for name in tensors}
    table = _measured(whole, sorted(set(choices)), sharing, measure)
    bits, kept = {name: max(choices) for name in table.steps}, set(table.steps)
    while kept and (max_bytes is None or table.bytes(bits) > max_bytes):
        name = min(sorted(kept), key=lambda name: table.price(name, bits[name]))
        lower = table.below(name, bits[name])
        if lower is None or (max_loss is not None and not table.loss({**bits, name: lower}) <= max_loss):
            kept.discard(name)
        else:
            bits[name] = lower
    return _met(Chosen(bits, table.bytes(bits), table.loss(bits)), max_bytes, max_loss)


def _met(chosen: Chosen, max_bytes: int | None, max_loss: float | None) -> Chosen:
    """Return what was chosen if it keeps its budget."""
    if max_bytes is not None and chosen.bytes > max_bytes:
        raise ValueError(
            f"pack.find_bits: with the fewest bits the tensors take {chosen.bytes:,} bytes; "
            f"max_bytes={max_bytes:,} cannot be met: prune more, or allow fewer bits"
        )
    if max_loss is not None and not chosen.loss <= max_loss:
        raise ValueError(
            f"pack.find_bits: with the most bits the loss is {chosen.loss:g}, above max_loss={max_loss:g}"
        )
    return chosen


@dataclass(frozen=True)
class _Table:
    """What each weight takes and costs with each number of bits."""

    whole: Mapping[str, Tensor]
    measure: Callable[[Mapping[str, Tensor]], float]
    rest: int  # bytes of what is not shared
    steps: Mapping[
        str, Mapping[int, tuple[Shared, int, float]]
    ]  # by name and bits: values, bytes, loss alone

    def bytes(self, bits: Mapping[str, int]) -> int:
        """Return the bytes of everything."""
        return self.rest + sum(self.steps[name][count][1] for name, count in bits.items())

    def loss(self, bits: Mapping[str, int]) -> float:
        """Return the loss of all weights together."""
        values = {name: self.steps[name][count][0].values() for name, count in bits.items()}
        return self.measure({**self.whole, **values})

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


def _measured(
    whole: Mapping[str, Tensor],
    choices: Sequence[int],
    sharing: Sharing,
    measure: Callable[[Mapping[str, Tensor]], float] | None,
) -> _Table:
    """Share and pack every weight with every number of bits, and measure what each does alone."""
    coding = Coding()
    measured = measure or _squared_error(whole)
    able = bits_of(whole, choices[-1])

    def steps(name: str) -> dict[int, tuple[Shared, int]]:
        shared = {bits: told(name, sharing, whole[name], bits=bits) for bits in choices}
        return {bits: (done, len(encode(done, coding).payload)) for bits, done in shared.items()}

    found = in_threads(steps, able, coding.threads)
    rest = sum(
        len(told(name, encode, tensor, coding).payload) for name, tensor in whole.items() if name not in able
    )
    return _Table(
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
