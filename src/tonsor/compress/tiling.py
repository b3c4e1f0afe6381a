"""Cut a matrix into tiles and transform each by cosines."""

import math
from collections.abc import Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

from tonsor.compress.pages import fresh

BAND = 1 << 18  # elements transformed at once on a CPU: they stay in the cache


@final
class Tiling(NamedTuple):
    """How a matrix is cut into tiles, which are transformed one by one.

    Example:
        >>> tiling = Tiling(rows=3, columns=4, height=2, width=4)
        >>> coefficients = torch.cat(list(tiling.apart(torch.ones(3, 4))))
        >>> coefficients.shape                                # two tiles; a row of zeros was added
        torch.Size([2, 8])
        >>> torch.allclose(tiling.together(coefficients), torch.ones(3, 4))
        True
    """

    rows: int
    columns: int
    height: int  # of a tile
    width: int

    @property
    def down(self) -> int:
        """Return the number of rows of tiles."""
        return -(-self.rows // self.height)

    @property
    def across(self) -> int:
        """Return the number of columns of tiles."""
        return -(-self.columns // self.width)

    @property
    def tiles(self) -> int:
        """Return how many tiles there are."""
        return self.down * self.across

    def apart(self, tensor: Tensor) -> Iterator[Tensor]:
        """Give the coefficients, some tiles at a time: shape `(tiles, height · width)`."""
        matrix = tensor.reshape(self.rows, self.columns)
        left, right = cosines(self.height, matrix), cosines(self.width, matrix).t()
        for start, size in self._bands(matrix):
            first = start * self.height
            band = matrix.narrow(0, first, min(size * self.height, self.rows - first))
            spare = 0, self.across * self.width - self.columns, 0, size * self.height - band.shape[0]
            lines = torch.nn.functional.pad(band, spare).view(-1, self.width) @ right
            both = left @ lines.view(size, self.height, self.across * self.width)
            tiles = both.view(size, self.height, self.across, self.width).transpose(1, 2)
            yield tiles.reshape(size * self.across, self.height * self.width)

    def together(self, coefficients: Tensor) -> Tensor:
        """Return the matrix that the coefficients are of."""
        tiles = coefficients.view(self.down, self.across, self.height, self.width)
        left, right = cosines(self.height, tiles), cosines(self.width, tiles)
        left = left.t().clone(memory_format=torch.contiguous_format)  # six times as fast as transposed
        bands = self._bands(coefficients)
        out = fresh((self.rows, self.columns), tiles.dtype, tiles.device)
        for start, size in bands:
            lines = tiles.narrow(0, start, size).transpose(1, 2).reshape(-1, self.width) @ right
            both = left @ lines.view(size, self.height, self.across * self.width)
            first = start * self.height
            count = min(size * self.height, self.rows - first)
            band = both.view(size * self.height, -1).narrow(0, 0, count).narrow(1, 0, self.columns)
            if len(bands) == 1:
                return band
            out.narrow(0, first, count).copy_(band)
        return out

    def _bands(self, like: Tensor) -> list[tuple[int, int]]:
        """Return first row of tiles and number of rows of what is transformed at once: all on a GPU."""
        size = self.down
        if like.device.type == "cpu":
            size = max(1, BAND // (self.height * self.across * self.width))
        return [(start, min(size, self.down - start)) for start in range(0, self.down, size)]


def cosines(size: int, like: Tensor, /) -> Tensor:
    r"""Return the orthonormal basis of the discrete cosine transform, type II.

    :math:`B_{ki} = \sqrt{2 / n} \cos(\pi k (2 i + 1) / 2n)`, and the row k = 0 over :math:`\sqrt 2`.

    Args:
        size: n.
        like: Its type and device are those of the basis.

    Returns:
        Shape `(n, n)`, a basis vector each row.

    Example:
        >>> basis = cosines(8, torch.empty(0, dtype=torch.float64))
        >>> torch.allclose(basis @ basis.t(), torch.eye(8, dtype=torch.float64))
        True
    """
    numbers = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * size) * numbers.unsqueeze(1) * (2 * numbers + 1)) * (2 / size) ** 0.5
    scales = torch.where(numbers == 0, 0.5**0.5, 1.0).unsqueeze(1)
    scaled: Tensor = basis * scales
    return scaled.to(like.device, like.dtype)
