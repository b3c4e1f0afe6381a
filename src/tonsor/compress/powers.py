"""Numbers as signs and powers of two."""

from typing import final

import torch
from torch import Tensor

from tonsor.compress.bits import pack_signs, put, unpack_signs
from tonsor.compress.codec import TILE, Codec, blocks_of, tiles
from tonsor.compress.draws import Draws

MANTISSA = 0x7FFFFF  # the bits of a float32 below its exponent


@final
class Powers:
    """Write sign and exponent of each float32, the mantissa rounded away up or down, by draws.

    Args:
        unit: Elements whose signs are packed by themselves; 0: all are together.

    Example:
        >>> parts = [torch.empty(2, dtype=torch.uint8), torch.empty(1, dtype=torch.uint8)]
        >>> Powers().encode(torch.tensor([4.0, -0.5]), parts, Draws(0, torch.tensor(0)))
        >>> Powers().decode(parts, values := torch.empty(2))
        >>> values
        tensor([ 4.0000, -0.5000])
    """

    block = 8  # workers share in such pieces

    def __init__(self, *, unit: int = 0) -> None:
        self.unit = unit

    def layout(self, count: int, /) -> list[tuple[int, torch.dtype]]:
        """Return exponents, then packed signs."""
        return [(count, torch.uint8), (blocks_of(count, 8), torch.uint8)]

    def fitted(self, unit: int, mask: Tensor | None, /) -> Codec:
        """Return powers whose signs are packed unit by unit; zeros change none."""
        return Powers(unit=unit)

    def encode(self, values: Tensor, parts: list[Tensor], draws: Draws | None, /) -> None:
        """Add random bits to the mantissa: it carries into the exponent as often as it is large."""
        exponents, packed = parts
        room = max(min(values.numel(), TILE), self.block)
        scratch = values.new_empty(room)
        shift = torch.empty(room, dtype=torch.int32, device=values.device)
        for first, rows in tiles(values, self.block):
            part, start = rows.reshape(-1), first * self.block
            work, drawn = scratch.narrow(0, 0, part.numel()), shift.narrow(0, 0, part.numel())
            # what is not a number is sent as infinite: its mantissa would carry into the sign
            torch.nan_to_num(part, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf, out=work)
            bits = work.view(torch.int32)
            if draws is not None:
                draws.bits_(drawn, start)
                bits.add_(drawn.bitwise_and_(MANTISSA))
            put(exponents.narrow(0, start, part.numel()), bits.bitwise_right_shift_(23).bitwise_and_(255))
        pack_signs(values, packed, self.unit)

    def decode(self, parts: list[Tensor], values: Tensor, /) -> None:
        """Give each power of two its sign."""
        exponents, packed = parts
        unpack_signs(packed, values, self.unit)
        count = values.numel()
        wide = torch.empty(min(count, TILE), dtype=torch.int32, device=values.device)
        for start in range(0, count, TILE):
            part = values.narrow(0, start, min(TILE, count - start))
            codes = exponents.narrow(0, start, part.numel())
            powers = put(wide.narrow(0, 0, part.numel()), codes).bitwise_left_shift_(23)
            torch.copysign(powers.view(torch.float32), part, out=part)
