"""Selection shared by the scopes: exact counts, ties by position, no wait for the device."""

from collections.abc import Collection

import torch
from torch import Tensor

from tonsor.prune.threshold import kth_of_rows, lowest


def check_sparsity(scope: str, sparsity: float, /) -> None:
    """Refuse a sparsity outside [0, 1).

    Args:
        scope: Name of the scope that was asked.
        sparsity: What was asked for.

    Raises:
        ValueError: If it is not at least 0 and below 1.

    Example:
        >>> check_sparsity("local", 1.0)
        Traceback (most recent call last):
        ValueError: prune.local: sparsity ... must lie in [0, 1); got 1.0 (... 1 would remove everything)
    """
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"prune.{scope}: sparsity is the fraction removed and must lie in [0, 1); got {sparsity}"
            " (0 keeps everything, 1 would remove everything)"
        )


def keep_highest(parts: Collection[Tensor], sparsity: float, /) -> list[Tensor]:
    """Return which elements stay when all tensors together lose their round(sparsity * elements) lowest.

    Of equal elements the one that stands first goes first.

    Args:
        parts: Tensors of any shape, without a not-a-number. They are gone through more than once.
        sparsity: Fraction removed, in [0, 1); `gone / elements` removes exactly `gone`.

    Returns:
        One tensor of booleans for each, of its shape and on its device.

    Example:
        >>> keep_highest([torch.tensor([2.0, 2.0]), torch.tensor([2.0, 1.0])], 0.5)
        [tensor([False,  True]), tensor([ True, False])]
    """
    threshold, tied_gone = lowest(parts, sparsity)
    keep = []
    for part in parts:
        kept, tied_gone = _above(part.reshape(-1), threshold.to(part.device), tied_gone.to(part.device))
        keep.append(kept.view(part.shape))
    return keep


def _above(flat: Tensor, threshold: Tensor, tied_gone: Tensor) -> tuple[Tensor, Tensor]:
    """Return what stays when of what equals the threshold the first ones go, and how many have yet to go."""
    is_cpu = flat.device.type == "cpu"  # where nothing waits, look: most tensors have no tie that matters
    if is_cpu and tied_gone <= 0:
        return flat >= threshold, tied_gone
    tied = flat == threshold
    left = tied_gone - tied.count_nonzero()
    if is_cpu and left >= 0:
        return flat > threshold, left
    return (flat > threshold) | (tied & (tied.cumsum(0) > tied_gone)), left


def keep_highest_of_rows(rows: Tensor, sparsity: float, /) -> Tensor:
    """Return which elements stay when each row loses its round(sparsity * columns) lowest.

    Of equal elements the one that stands first goes first.

    Args:
        rows: Shape `(rows, columns)`, without a not-a-number.
        sparsity: Fraction removed, in [0, 1).

    Returns:
        Booleans of the same shape.

    Example:
        >>> keep_highest_of_rows(torch.tensor([[2.0, 2.0, 2.0, 1.0]]), 0.5)
        tensor([[False,  True,  True, False]])
    """
    count = round(sparsity * rows.shape[-1])
    if count == 0 or rows.numel() == 0:
        return torch.ones_like(rows, dtype=torch.bool)
    threshold = kth_of_rows(rows, count)
    tied = rows == threshold
    tied_gone = count - (rows < threshold).sum(-1, keepdim=True)
    return (rows > threshold) | (tied & (tied.cumsum(-1) > tied_gone))
