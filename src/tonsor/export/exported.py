"""What every export returns, and how a reloaded file is compared with the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tonsor.modes import rows


@dataclass(frozen=True)
class Exported:
    """A file that was written, reloaded and compared.

    Args:
        format: The format's name, as in `FORMATS`.
        file: Its name, without the folder.
        bytes: Its size.
        max_difference: The largest difference found, relative to the largest output; 0 is bit for bit.
        rms_difference: The differences' root mean square, relative to that of the outputs.

    Example:
        >>> Exported("onnx", "small.onnx", 27904, 2.4e-07, 3.1e-08).file
        'small.onnx'
    """

    format: str
    file: str
    bytes: int
    max_difference: float
    rms_difference: float


class Format(Protocol):
    """Write a model as one file, whole or not at all, and prove that the file does what the model does.

    Every rule of this room keeps three promises: the model is left as it was, a file that does not
    hold what the model holds is never written, and nothing is left behind when the disk is full.

    Example:
        >>> from tonsor.export import to_safetensors
        >>> rule: Format = to_safetensors
    """

    def __call__(self, model: nn.Module, inputs: Tensor | tuple[Any, ...], path: Path, /) -> Exported:
        """Return what was written."""
        ...


def arguments(inputs: Tensor | tuple[Any, ...], /) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple, after making sure that each has a batch.

    Args:
        inputs: One tensor or a tuple of tensors, each with the batch first.

    Returns:
        The arguments of one call.

    Raises:
        ValueError: If an input is no tensor with a batch.

    Example:
        >>> arguments(torch.tensor([1, 2]))
        (tensor([1, 2]),)
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    for place, x in enumerate(given):
        if not isinstance(x, Tensor) or not x.ndim or not len(x):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"export: input {place} must be a tensor with the batch first; got {got}")
    return given


def compare(
    file: Callable[..., Any], model: nn.Module, inputs: tuple[Tensor, ...], batches: Sequence[int], /
) -> tuple[float, float]:
    r"""Return how far a file's outputs are from the model's, over some batch sizes.

    Args:
        file: What the file holds, called as the model is.
        model: The model, in evaluation mode.
        inputs: The arguments of one call, repeated or cut for each batch size.
        batches: The batch sizes.

    Returns:
        `difference`, the worst of all batches; and :math:`\lVert a - b\rVert / \lVert b\rVert` over all of
        them together, the worst of all outputs. Infinite where the number of outputs or a shape differs.

    Example:
        >>> with torch.no_grad():
        ...     compare(lambda x: 1.5 * x, nn.Identity(), (torch.ones(1, 2),), [1, 3])
        (0.5, 0.5)
    """
    runs = [
        [[x for x in tree_leaves(run(*given)) if isinstance(x, Tensor)] for run in (file, model)]
        for given in (rows(inputs, batch) for batch in batches)
    ]
    worst = _greatest([difference(*run) for run in runs])
    if worst == float("inf"):
        return worst, worst
    sides = [zip(*side, strict=True) for side in zip(*runs, strict=True)]  # the outputs of all batches
    return worst, _greatest([_rms_difference(a, b) for a, b in zip(*sides, strict=True)])


def _greatest(values: Sequence[float]) -> float:
    """Return the greatest, 0 of none; unlike Python's `max`, it loses no NaN."""
    return float(torch.tensor([0.0, *values], dtype=torch.float64).max())


def _rms_difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the norm of a difference relative to that of what was expected; equal infinities agree."""
    a, b = (torch.cat([x.cpu().double().flatten() for x in side]) for side in (got, expected))
    scale = torch.where(b.isfinite(), b, 0).norm()
    return float(torch.where(a == b, 0, a - b).norm() / torch.where(scale > 0, scale, 1.0))


def check_tolerance(where: str, tolerance: float, /) -> None:
    """Refuse a tolerance that nothing could keep.

    Args:
        where: Who exports, for the error.
        tolerance: The largest difference allowed.

    Raises:
        ValueError: If it is not above 0.

    Example:
        >>> check_tolerance("export.onnx", 0)
        Traceback (most recent call last):
        ValueError: export.onnx: tolerance must be above 0; got 0
    """
    if not tolerance > 0:
        raise ValueError(f"{where}: tolerance must be above 0; got {tolerance}")


def difference(got: Sequence[Tensor], expected: Sequence[Tensor], /) -> float:
    r"""Return how far outputs are apart: :math:`\max|a - b| / \max|b|`, the worst of all outputs.

    Args:
        got: What the file gave.
        expected: What the model gave.

    Returns:
        0 where they are equal; infinite where the number of outputs or a shape differs; NaN where an
        output is not a number.

    Example:
        >>> difference([torch.tensor([1.0, 4.5])], [torch.tensor([1.0, 5.0])])
        0.1
    """
    if [x.shape for x in got] != [x.shape for x in expected]:
        return float("inf")
    worst = [torch.zeros((), dtype=torch.float64)]
    wide = [[x.cpu().double() for x in outputs] for outputs in (got, expected)]
    for a, b in zip(*wide, strict=True):
        if b.numel():
            scale = torch.where(b.isfinite(), b, 0).abs().max()
            apart = torch.where(a == b, 0, (a - b).abs())  # equal infinities are not apart
            worst.append(apart.max() / torch.where(scale > 0, scale, 1.0))
    return float(torch.stack(worst).max())
