"""Tiles of the weight matrix live or die together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tonsor.prune.protocol import Masks
from tonsor.prune.reduction import Reduction, check_reduction, join


@dataclass(frozen=True, kw_only=True)
class Block:
    """Let the weights of one tile (block, or all rows of a head) live or die together.

    The tiles lie on the matrix `(out, in * kernel)`: a weight of more than two dimensions is flattened after
    the first. Where a side does not divide the matrix the last tiles are smaller. They count as units like
    the others; a mean does not punish them for their size, a sum or a 2-norm does. A tensor of fewer than
    two dimensions has its elements as units.

    Args:
        height: Outputs of a tile; 0 takes all. A height of the head's size with a width of 0 removes whole
            heads from a projection to queries, keys or values.
        width: Inputs of a tile; 0 takes all. A width of the head's size with a height of 0 removes whole
            heads from the projection that joins them.
        reduction: Score of a tile: mean, sum, maximum or 2-norm ("l2") of its elements'.

    Raises:
        ValueError: If a side is negative, or the reduction is not known.

    Example:
        >>> rule = Block(height=1, width=2)
        >>> w = {"w": torch.tensor([[1.0, 3.0, 9.0], [2.0, 2.0, 1.0]])}
        >>> rule.reduce(w)
        {'w': tensor([[2., 9.],
                [2., 1.]])}
        >>> rule.expand({"w": torch.tensor([[False, True], [True, False]])}, w)
        {'w': tensor([[False, False,  True],
                [ True,  True, False]])}

    References:
        Narang et al., 2017, "Block-Sparse Recurrent Neural Networks", https://arxiv.org/abs/1711.02782
    """

    height: int = 4
    width: int = 4
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        check_reduction("Block", self.reduction)
        if self.height < 0 or self.width < 0:
            raise ValueError(
                "prune.Block: height and width must be at least 1, or 0 for all;"
                f" got height={self.height}, width={self.width}"
            )

    def reduce(self, scores: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return one score for each tile, shape `(tiles down, tiles across)`."""
        return {name: self._join(score) for name, score in scores.items()}

    def expand(self, keep: Mapping[str, Tensor], like: Mapping[str, Tensor], /) -> Masks:
        """Return masks in which a tile is all true or all false."""
        return {name: self._spread(keep[name], like[name]) for name in keep}

    def _join(self, score: Tensor) -> Tensor:
        """Return one score for each tile."""
        if score.ndim < 2:
            return score
        matrix = score.flatten(1)
        height, width = self._sides(matrix)
        down, across = -matrix.shape[0] % height, -matrix.shape[1] % width
        fill = -torch.inf if self.reduction == "max" else 0.0
        filled = torch.nn.functional.pad(matrix, (0, across, 0, down), value=fill)
        tiles = filled.view(-(-matrix.shape[0] // height), height, -(-matrix.shape[1] // width), width)
        joined = join(tiles, (1, 3), self.reduction)
        if self.reduction == "mean" and (down or across):
            joined *= height * width / _present(matrix, height, width)
        return joined

    def _spread(self, keep: Tensor, like: Tensor) -> Tensor:
        """Return the choice repeated over each tile."""
        if like.ndim < 2:
            return keep
        matrix = like.flatten(1)
        height, width = self._sides(matrix)
        filled = keep[:, None, :, None].expand(-1, height, -1, width).flatten(2).flatten(0, 1)
        return filled[: matrix.shape[0], : matrix.shape[1]].reshape(like.shape)

    def _sides(self, matrix: Tensor) -> tuple[int, int]:
        """Return height and width of a whole tile of this matrix."""
        return self.height or max(1, matrix.shape[0]), self.width or max(1, matrix.shape[1])


def _present(matrix: Tensor, height: int, width: int) -> Tensor:
    """Return how many elements of each tile lie on the matrix."""
    rows, columns = (
        (size - torch.arange(0, size, side, device=matrix.device)).clamp(max=side)
        for size, side in zip(matrix.shape, (height, width), strict=True)
    )
    return rows[:, None] * columns
