"""Batches of a person's, as ONNX Runtime's calibration reads them."""

from collections.abc import Iterable
from typing import Any, final

from tonsor.export.exported import arguments
from tonsor.export.onnx_model import open_session


@final
class Calibration:
    """Hand out batches one by one, each as the inputs of an ONNX file by name.

    Args:
        whole: The file.
        batches: Each one tensor or a tuple of tensors, with the batch first; gone through once.

    Raises:
        ValueError: When a batch is asked for: if it has another number of inputs than the file, or if there
            is none at all.

    Example:
        >>> import torch
        >>> from tonsor.export.onnx import onnx_bytes
        >>> x = torch.ones(2, 1)
        >>> calibration = Calibration(onnx_bytes(torch.nn.Linear(1, 1).eval(), (x,), "export.onnx"), [x])
        >>> calibration.get_next(), calibration.get_next()
        ({'input': array([[1.], [1.]], dtype=float32)}, None)
    """

    def __init__(self, whole: bytes, batches: Iterable[Any], /) -> None:
        self._names = [taken.name for taken in open_session(whole, 1).get_inputs()]
        self._batches = iter(batches)
        self._count = 0

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next batch by name, or None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            if not self._count:
                raise ValueError("export.onnx_int8: calibration is empty; expected at least one batch")
            return None
        given = arguments(batch)
        if len(given) != len(self._names):
            raise ValueError(
                f"export.onnx_int8: batch {self._count} of the calibration has {len(given)} inputs; the "
                f"model takes {len(self._names)} ({', '.join(self._names)}); leave targets out"
            )
        self._count += 1
        return {name: x.detach().cpu().numpy() for name, x in zip(self._names, given, strict=True)}
