"""What the weights that masks leave cost."""

import math
from collections.abc import Mapping

from torch import Tensor

from tonsor.spelling import unknown


def parameters(masks: Mapping[str, Tensor], /) -> float:
    """Count the weights that stay.

    Args:
        masks: Boolean masks by name, true where the weight stays.

    Returns:
        Their number.

    Example:
        >>> import torch
        >>> parameters({"w": torch.tensor([True, False, True])})
        2.0
    """
    return float(sum(_kept(mask) for mask in masks.values()))


def bytes_on_disk(masks: Mapping[str, Tensor], /, *, bits: int = 32) -> float:
    """Count the bytes of the weights that stay, each tensor in the smallest of three layouts.

    Dense: every weight. Bitmap: a bit for each weight, then those that stay. Rows (CSR): those that stay,
    each with its column in 1, 2 or 4 bytes, and 4 bytes where each row begins; a weight is a matrix
    `(out, in * kernel)`. Headers are not counted, nor is entropy coding.

    Args:
        masks: Boolean masks by name, true where the weight stays.
        bits: Size of a weight, from 1: 32 for float32, 16 for half precision, fewer for codes.

    Returns:
        Bytes.

    Raises:
        ValueError: If `bits` is below 1.

    Example:
        >>> import torch
        >>> mask = torch.zeros(8, 100, dtype=torch.bool)
        >>> sizes = []
        >>> for kept in (1, 50, 100):
        ...     mask[:, :kept] = True
        ...     sizes.append(bytes_on_disk({"w": mask}))
        >>> sizes                     # rows: 8 * 5 + 36; bitmap: 100 + 400 * 4; dense: 800 * 4
        [76.0, 1700.0, 3200.0]

    References:
        Han et al., 2016, "Deep Compression", https://arxiv.org/abs/1510.00149
    """
    if bits < 1:
        raise ValueError(f"prune.bytes_on_disk: bits must be at least 1; got {bits}")
    return float(sum(_smallest(mask, bits) for mask in masks.values()))


def _smallest(mask: Tensor, bits: int) -> int:
    """Return the bytes of one tensor in its smallest layout."""
    count, kept = mask.numel(), _kept(mask)
    rows = mask.shape[0] if mask.ndim > 1 else 1
    columns = count // max(1, rows)
    index = 1 if columns <= 1 << 8 else 2 if columns <= 1 << 16 else 4
    values = math.ceil(kept * bits / 8)
    return min(
        math.ceil(count * bits / 8), math.ceil(count / 8) + values, 4 * (rows + 1) + index * kept + values
    )


def macs(masks: Mapping[str, Tensor], /, *, positions: Mapping[str, Tensor | float] | None = None) -> float:
    """Count the multiply-accumulates of the weights that stay, in one call of the model.

    With masks of coupled channels what a removed unit saves in the layer that reads it counts as well. What
    is computed without a weight (attention's scores, say) does not.

    Args:
        masks: Boolean masks by name, true where the weight stays.
        positions: By name, how often each weight is used in one call, broadcastable to it: the statistic of
            that name. Without it each is used once, as in a linear layer on one sample.

    Returns:
        Their number.

    Raises:
        ValueError: If the positions of a weight are missing.

    Example:
        >>> import torch
        >>> macs({"w": torch.tensor([[True, False, True]])}, positions={"w": 100})
        200.0
    """
    if positions is None:
        return parameters(masks)
    for name in masks:
        if name not in positions:
            raise ValueError(f"prune.macs: in positions: {unknown('weight', name, positions)}")
    return float(sum(_uses(mask, positions[name]) for name, mask in masks.items()))


def _uses(mask: Tensor, positions: Tensor | float) -> float:
    """Return how often the weights of one tensor that stay are used."""
    if not isinstance(positions, Tensor):
        return positions * _kept(mask)
    if positions.numel() == 1:
        return positions.item() * _kept(mask)
    return (positions.double().to(mask.device) * mask).sum().item()


def _kept(mask: Tensor) -> int:
    """Return how many weights of one tensor stay."""
    return int(mask.count_nonzero())
