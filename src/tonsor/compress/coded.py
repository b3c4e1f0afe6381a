"""A float32 tensor held in 8 or 16 bits, with what that loses in 8 bits more."""

from typing import Literal, Self, final, get_args

import torch
from torch import Tensor

from tonsor.spelling import unknown

Kind = Literal["int8", "bfloat16"]
BLOCK = 256  # elements that share a scale
CHUNK = BLOCK << 10  # elements that are float32 at once: 1 MiB stays in the cache


@final
class Coded:
    """Hold a sum in few bits; what rounding loses is held as well, and so goes into the next addition.

    8-bit numbers are rounded to 1/127 of the largest of their block of 256. With feedback the difference
    is held in the same way, and a sum is right to 1/32000 of the block's largest: 2.03 bytes an element,
    with bfloat16 3.02.

    Args:
        numel: Elements of the tensor.
        device: Where it is held.
        kind: "int8" or "bfloat16".
        feedback: Whether what is lost is held.

    Raises:
        ValueError: If `kind` is not known.

    Example:
        >>> held = Coded(3, torch.device("cpu"), kind="int8", feedback=True)
        >>> held.add(torch.tensor([1.0, -127.0, 0.25])).add(torch.tensor([0.0, 0.0, 0.25])).value()
        tensor([   1.0000, -127.0000,    0.5000])
    """

    def __init__(self, numel: int, device: torch.device, *, kind: Kind, feedback: bool) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"compress.HeldGradients: {unknown('kind', kind, get_args(Kind))}")
        self.numel = numel
        padded = -(-numel // BLOCK) * BLOCK
        kinds = [getattr(torch, kind), *([torch.int8] if feedback else [])]
        self.layers = [
            (
                torch.zeros(padded, dtype=held, device=device),
                torch.zeros(padded // BLOCK if held == torch.int8 else 0, device=device),
            )
            for held in kinds
        ]

    def add(self, flat: Tensor, /) -> Self:
        """Add a vector of as many elements."""
        for start in range(0, self.numel, CHUNK):
            part = flat[start : start + CHUNK]
            total = self._decoded(start)
            total[: part.numel()] += part
            for values, scales in self.layers:
                at = slice(start, start + total.numel())
                scale = scales[start // BLOCK : (start + total.numel()) // BLOCK]
                _encode(total, values[at], scale)
                total = total.sub_(_decode(values[at], scale))
        return self

    def value(self) -> Tensor:
        """Return the sum in float32."""
        starts = range(0, self.numel, CHUNK)
        parts = [self._decoded(start) for start in starts]
        return (
            torch.cat(parts)[: self.numel] if parts else self.layers[0][0].new_zeros(0, dtype=torch.float32)
        )

    def scale_(self, factor: Tensor, /) -> None:
        """Multiply the sum by a 0-dim tensor."""
        for values, scales in self.layers:
            (scales if values.dtype == torch.int8 else values).mul_(factor)

    def _decoded(self, start: int) -> Tensor:
        """Return a chunk of the sum, up to the padding."""
        at, blocks = slice(start, start + CHUNK), slice(start // BLOCK, (start + CHUNK) // BLOCK)
        total, *lost = [_decode(values[at], scales[blocks]) for values, scales in self.layers]
        return total.add_(lost[0]) if lost else total


def _encode(chunk: Tensor, values: Tensor, scales: Tensor) -> None:
    """Write a chunk of float32 in few bits."""
    if values.dtype != torch.int8:
        values.copy_(chunk)
        return
    blocks = chunk.view(-1, BLOCK)
    torch.div(torch.linalg.vector_norm(blocks, torch.inf, dim=1), 127, out=scales)
    # A block of zeros has scale 0; one that is not finite has one that is not, which shows in its value.
    rounded = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).round_()
    values.view(-1, BLOCK).copy_(rounded.nan_to_num_(0.0))


def _decode(values: Tensor, scales: Tensor) -> Tensor:
    """Return what `_encode` wrote, in float32."""
    if values.dtype != torch.int8:
        return values.float()
    return (values.view(-1, BLOCK) * scales.unsqueeze(1)).view(-1)
