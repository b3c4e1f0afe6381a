"""A model as a program of torch.export's, loaded anew and compared before it is written."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.export.exported import Exported, arguments, check_tolerance, compare
from tonsor.export.traced import explained, quiet, trace
from tonsor.files import write_bytes
from tonsor.modes import evaluating, rows


def to_torch_export(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    path: Path,
    /,
    *,
    tolerance: float = 1e-6,
    free_batch: bool = True,
) -> Exported:
    r"""Write a model as a torch.export program (`.pt2`), and prove that it computes the same.

    `torch.export.load(path).module()` runs it. Before the file is written, the program is loaded from the
    file's own bytes and run at the batch size of the inputs, at 1, and at one more than that of the inputs.
    It counts as the same where :math:`\max|a - b| / \max|b|` over each output is within the tolerance. The
    example inputs and the source lines that torch would note are left out: the file tells nothing of the
    data or of the machine it was made on. Such a file is read by unpickling: load none that you do not trust.

    Args:
        model: The model, which `torch.export` must be able to trace; left as it was.
        inputs: One tensor or a tuple of tensors, each with the batch first.
        path: Where the file shall stand.
        tolerance: The largest relative difference allowed, above 0; bigger allows more.
        free_batch: Whether the program takes batches of any size; else that of the inputs alone, for a
            model that works with no other.

    Returns:
        What was written.

    Raises:
        ValueError: If the model cannot be exported or computes something else; nothing is written.
        OSError: If the file cannot be written; what stood there before is kept.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.pt2"
        >>> exported = to_torch_export(nn.Linear(2, 1), torch.ones(1, 2), path)
        >>> exported.file, exported.bytes == path.stat().st_size, exported.max_difference
        ('a.pt2', True, 0.0)
        >>> torch.export.load(path).module()(torch.ones(3, 2)).shape
        torch.Size([3, 1])
    """
    check_tolerance("export.torch_export", tolerance)
    given = arguments(inputs)
    batch = len(given[0])
    with evaluating(model):
        data = _to_bytes(model, rows(given, max(2, batch)) if free_batch else given, free_batch)
        with quiet():
            program = torch.export.load(io.BytesIO(data)).module()
        sizes = sorted({1, batch, batch + 1}) if free_batch else [batch]
        found, apart = compare(program, model, given, sizes)
    if not found <= tolerance:
        raise ValueError(
            f"export.torch_export: the program's outputs differ from the model's by {found:.1e} of their "
            f"scale; allowed is tolerance={tolerance:.1e}; {path} was not written"
        )
    write_bytes(path, data)
    return Exported("torch_export", path.name, len(data), found, apart)


def _to_bytes(model: nn.Module, example: tuple[Tensor, ...], free_batch: bool) -> bytes:
    """Return the file's content."""
    file = io.BytesIO()
    with explained("export.torch_export", model, free_batch=free_batch):
        torch.export.save(trace(model, example, free_batch=free_batch), file)
    return file.getvalue()
