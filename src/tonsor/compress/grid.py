"""Numbers on a grid of whole steps, one scale for each block."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from tonsor.compress.bits import pack, put, unpack
from tonsor.compress.codec import TILE, Codec, blocks_of, tiles
from tonsor.compress.draws import Draws

FLOOR = 1e-35  # the least that a block is measured as: scales below would leave float32's range
Measure = Callable[[Tensor, Tensor], Tensor]


def largest_magnitude(rows: Tensor, work: Tensor, /) -> Tensor:
    """Return the largest magnitude of each row.

    Args:
        rows: Matrix.
        work: Scratch of the same shape.

    Returns:
        Shape `(rows,)`.

    Example:
        >>> largest_magnitude(torch.tensor([[1.0, -2.0]]), torch.empty(1, 2))
        tensor([2.])
    """
    # two reads of what is in the cache are faster than one, a write of the magnitudes and a read of them
    return torch.maximum(rows.amax(1), rows.amin(1).neg_())


def euclidean_norm(rows: Tensor, work: Tensor, /) -> Tensor:
    """Return the 2-norm of each row, which does not overflow before its time.

    Args:
        rows: Matrix.
        work: Scratch of the same shape.

    Returns:
        Shape `(rows,)`.

    Example:
        >>> euclidean_norm(torch.tensor([[3.0, -4.0]]), torch.empty(1, 2))
        tensor([5.])
    """
    top = largest_magnitude(rows, work)
    inverse = 1 / top.clamp(min=FLOOR)
    return torch.mul(rows, inverse.unsqueeze(1), out=work).square_().sum(1).sqrt_().mul_(top)


@final
class Grid:
    """Write numbers as whole multiples of a scale, from `-levels` to `levels`, in 2, 4 or 8 bits each.

    Args:
        levels: Steps on each side of zero, 1 to 127.
        block: Elements that share a scale.
        measure: What of a block `levels` steps stand for. Default: its largest magnitude.
        unit: Elements that are packed by themselves; 0: all are together.

    Example:
        >>> parts = [torch.empty(1), torch.empty(1, dtype=torch.uint8)]
        >>> Grid(levels=1, block=4).encode(torch.tensor([3.0, -1.0, 2.0]), parts, None)
        >>> Grid(levels=1, block=4).decode(parts, values := torch.empty(3))
        >>> values
        tensor([3., 0., 3.])
    """

    def __init__(
        self, *, levels: int, block: int, measure: Measure = largest_magnitude, unit: int = 0
    ) -> None:
        self.levels = levels
        self.block = block
        self.unit = unit
        self.measure = measure
        self.bits = next(bits for bits in (2, 4, 8) if 2 * levels < 2**bits)

    def layout(self, count: int, /) -> list[tuple[int, torch.dtype]]:
        """Return scales, then packed codes."""
        return [
            (blocks_of(count, self.block), torch.float32),
            (blocks_of(count, 8 // self.bits), torch.uint8),
        ]

    def fitted(self, unit: int, mask: Tensor | None, /) -> Codec:
        """Return a grid whose codes are packed unit by unit; zeros change none."""
        return Grid(levels=self.levels, block=self.block, measure=self.measure, unit=unit)

    def encode(self, values: Tensor, parts: list[Tensor], draws: Draws | None, /) -> None:
        """Round to the nearest step, or with draws up or down so that the mean is the number itself."""
        scales, packed = parts
        count = values.numel()
        codes = packed if self.bits == 8 else torch.empty(count, dtype=torch.uint8, device=values.device)
        scratch = values.new_empty(max(min(count, TILE), self.block))
        for first, rows in tiles(values, self.block):
            work = scratch.narrow(0, 0, rows.numel()).view(rows.shape)
            top = self.measure(rows, work).clamp_(min=FLOOR)
            torch.mul(rows, (self.levels / top).unsqueeze(1), out=work)
            start = first * self.block
            self._round(work, start, draws)
            put(codes.narrow(0, start, rows.numel()).view(torch.int8).view(rows.shape), work)
            torch.div(top, self.levels, out=scales.narrow(0, first, len(rows)))
        if self.bits < 8:
            pack(codes.add_(self.levels), packed, self.bits, self.unit)  # wraps to 0 ... 2 levels

    def _round(self, work: Tensor, start: int, draws: Draws | None) -> None:
        """Round in place; draws shift by up to half a step first."""
        if draws is not None:
            work.add_(draws.floats(work.numel(), start).view(work.shape), alpha=2.0**-32)
        work.round_()
        if draws is not None or self.measure is not largest_magnitude:
            work.clamp_(-self.levels, self.levels)

    def decode(self, parts: list[Tensor], values: Tensor, /) -> None:
        """Multiply each code by the scale of its block."""
        scales, packed = parts
        codes = packed.view(torch.int8)
        if self.bits < 8:
            codes = torch.empty(values.numel(), dtype=torch.int8, device=values.device)
            unpack(packed, codes.view(torch.uint8), self.bits, self.unit)
            codes.sub_(self.levels)
        for first, rows in tiles(values, self.block):
            start = first * self.block
            put(rows, codes.narrow(0, start, rows.numel()).view(rows.shape))
            rows.mul_(scales.narrow(0, first, len(rows)).unsqueeze(1))
