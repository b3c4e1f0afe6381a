"""Bits for each weight, so that the whole keeps a budget of bytes, or of loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tonsor.pack.bit_table import CHOICES, bit_table
from tonsor.pack.by_kmeans import kmeans
from tonsor.pack.named import State
from tonsor.pack.shared import Sharing


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
    choices: Sequence[int] = CHOICES,
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
    table = bit_table(state, choices, masks=masks, sharing=sharing, measure=measure)
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
