"""Signs packed to bits, with one size for each block."""

from typing import final

import torch
from torch import Tensor

from tonsor.compress.bits import pack_signs, unpack_signs
from tonsor.compress.codec import TILE, Codec, blocks_of, tiles
from tonsor.compress.draws import Draws


@final
class Signs:
    """Write each number as one bit and each block's mean magnitude; a block of zeros stays zero.

    Args:
        block: Elements that share a size.
        unit: Elements that are packed by themselves; 0: all are together.
        mask: 1 for a number, 0 for a zero that only fills up its block; whole blocks.

    Example:
        >>> parts = [torch.empty(2), torch.empty(1, dtype=torch.uint8)]
        >>> Signs(block=2).encode(torch.tensor([1.0, -3.0, 0.0]), parts, None)
        >>> Signs(block=2).decode(parts, values := torch.empty(3))
        >>> values
        tensor([ 2., -2.,  0.])
    """

    def __init__(self, *, block: int, unit: int = 0, mask: Tensor | None = None) -> None:
        self.block = block
        self.unit = unit
        self.mask = mask

    def layout(self, count: int, /) -> list[tuple[int, torch.dtype]]:
        """Return sizes, then packed signs."""
        return [(blocks_of(count, self.block), torch.float32), (blocks_of(count, 8), torch.uint8)]

    def fitted(self, unit: int, mask: Tensor | None, /) -> Codec:
        """Return signs packed unit by unit, whose sizes are the means of what the mask leaves."""
        return Signs(block=self.block, unit=unit, mask=None if mask is None else mask.reshape(-1))

    def encode(self, values: Tensor, parts: list[Tensor], draws: Draws | None, /) -> None:
        """Write sizes and signs; nothing is drawn."""
        sizes, packed = parts
        scratch = values.new_empty(max(min(values.numel(), TILE), self.block))
        for first, rows in tiles(values, self.block):
            work = scratch.narrow(0, 0, rows.numel()).view(rows.shape)
            torch.mean(torch.abs(rows, out=work), 1, out=sizes.narrow(0, first, len(rows)))
        if self.mask is not None:
            sizes.div_(self.mask.view(-1, self.block).mean(1))
        pack_signs(values, packed, self.unit)

    def decode(self, parts: list[Tensor], values: Tensor, /) -> None:
        """Give each block's size the signs of its bits."""
        sizes, packed = parts
        unpack_signs(packed, values, self.unit)
        for first, rows in tiles(values, self.block):
            torch.copysign(sizes.narrow(0, first, len(rows)).unsqueeze(1), rows, out=rows)
        if self.mask is not None:
            values.mul_(self.mask)
