"""Numbers as short floats, one power of two for each block."""

from typing import final

import torch
from torch import Tensor

from tonsor.compress.bits import put
from tonsor.compress.codec import TILE, Codec, blocks_of, tiles
from tonsor.compress.draws import Draws
from tonsor.compress.grid import largest_magnitude

INFINITE = 0x7F800000  # the exponent's bits of a float32
SIGN_AND_LOWEST = 0x87F00000 - (1 << 32)  # of a float32: sign, last 4 bits of exponent, first 3 of mantissa
LEAST = 2.0**-110  # the least that a block is measured as: scales below would leave float32's range


@final
class Floats:
    """Write numbers in a shorter type, moved by a power of two into the middle of its range.

    What the type can express is kept to the last bit, at any size; nothing overflows.

    Args:
        dtype: The type.
        block: Elements that are moved together.
        top: The largest of a block is moved between `2 ** top` and twice that.

    Example:
        >>> parts = [torch.empty(1), torch.empty(2, dtype=torch.float16)]
        >>> Floats(torch.float16, block=4, top=14).encode(torch.tensor([1e9, -3e6]), parts, None)
        >>> Floats(torch.float16, block=4, top=14).decode(parts, values := torch.empty(2))
        >>> values.tolist()
        [999817216.0, -3000320.0]
    """

    def __init__(self, dtype: torch.dtype, *, block: int, top: int) -> None:
        self.dtype = dtype
        self.block = block
        self.top = top

    def layout(self, count: int, /) -> list[tuple[int, torch.dtype]]:
        """Return powers of two, then the short floats."""
        return [(blocks_of(count, self.block), torch.float32), (count, self.dtype)]

    def fitted(self, unit: int, mask: Tensor | None, /) -> Codec:
        """Return itself: nothing is packed, and zeros change no code."""
        return self

    def encode(self, values: Tensor, parts: list[Tensor], draws: Draws | None, /) -> None:
        """Round to the nearest float; nothing is drawn."""
        scales, codes = parts
        scratch = values.new_empty(max(min(values.numel(), TILE), self.block))
        for first, rows in tiles(values, self.block):
            work = scratch.narrow(0, 0, rows.numel()).view(rows.shape)
            power = largest_magnitude(rows, work).view(torch.int32).bitwise_and_(INFINITE).view(torch.float32)
            scale = power.clamp_(min=LEAST).mul_(2.0**-self.top)
            torch.mul(rows, (1 / scale).unsqueeze(1), out=work)
            start = first * self.block
            put(codes.narrow(0, start, rows.numel()).view(rows.shape), work)
            put(scales.narrow(0, first, len(rows)), scale)

    def decode(self, parts: list[Tensor], values: Tensor, /) -> None:
        """Move each number back."""
        scales, codes = parts
        for first, rows in tiles(values, self.block):
            start = first * self.block
            short = codes.narrow(0, start, rows.numel()).view(rows.shape)
            if self.dtype == torch.float8_e4m3fn:
                _widen(short, rows)
            else:
                put(rows, short)
            rows.mul_(scales.narrow(0, first, len(rows)).unsqueeze(1))


def _widen(short: Tensor, rows: Tensor) -> None:
    """Write e4m3 numbers as float32, seven times faster than torch's cast on a CPU; 480 for what is none."""
    bits = put(rows.view(torch.int32), short.view(torch.int8)).bitwise_left_shift_(20)
    bits.bitwise_and_(SIGN_AND_LOWEST)
    rows.mul_(2.0**120)  # the exponents' zeros are 127 and 7


@final
class Halves:
    """Write numbers in bfloat16, whose range is that of float32, so that no scale is needed.

    Example:
        >>> Halves().encode(torch.tensor([1.0, 1.001]), parts := [torch.empty(2, dtype=torch.bfloat16)], None)
        >>> parts[0]
        tensor([1., 1.], dtype=torch.bfloat16)
    """

    block = 8  # workers share in such pieces

    def layout(self, count: int, /) -> list[tuple[int, torch.dtype]]:
        """Return the one part."""
        return [(count, torch.bfloat16)]

    def fitted(self, unit: int, mask: Tensor | None, /) -> Codec:
        """Return itself: nothing is packed, and zeros change no code."""
        return self

    def encode(self, values: Tensor, parts: list[Tensor], draws: Draws | None, /) -> None:
        """Round to the nearest float; nothing is drawn."""
        put(parts[0], values)

    def decode(self, parts: list[Tensor], values: Tensor, /) -> None:
        """Write them as float32."""
        put(values, parts[0])
