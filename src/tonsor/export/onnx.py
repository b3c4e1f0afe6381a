"""A model as an ONNX file, run by ONNX Runtime and compared before it is written."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.export.exported import Exported, arguments, check_tolerance, compare
from tonsor.export.onnx_model import open_session
from tonsor.export.traced import explained, need, trace
from tonsor.files import write_bytes
from tonsor.modes import evaluating, rows

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
LIMIT = 2**31 - 1  # bytes one protocol-buffer message may have


def to_onnx(
    model: nn.Module, inputs: Tensor | tuple[Any, ...], path: Path, /, *, tolerance: float = 1e-4
) -> Exported:
    r"""Write a model as one ONNX file that takes batches of any size, and prove that it computes the same.

    Before the file is written, ONNX's checker reads it and ONNX Runtime runs it on the CPU, at the
    batch size of the inputs, at 1, and at one more than that of the inputs. It counts as the same where
    :math:`\max|a - b| / \max|b|` over each output is within the tolerance. Where the exporter noted the
    source line of each node, the notes are taken out: the file tells nothing of the machine it was made on.

    Args:
        model: The model, which `torch.export` must be able to trace; left as it was.
        inputs: One tensor or a tuple of tensors, each with the batch first.
        path: Where the file shall stand.
        tolerance: The largest relative difference allowed, above 0; bigger allows more.

    Returns:
        What was written.

    Raises:
        ValueError: If the model cannot be exported with a free batch size, is bigger than the 2 GiB an
            ONNX file can hold, has bfloat16 weights, or computes something else; nothing is written.
        ModuleNotFoundError: If onnx, onnxruntime or onnxscript is missing: says how to install them.
        OSError: If the file cannot be written; what stood there before is kept.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.onnx"
        >>> exported = to_onnx(nn.Linear(2, 1), torch.ones(1, 2), path)
        >>> exported.file, exported.bytes == path.stat().st_size, exported.max_difference < 1e-6
        ('a.onnx', True, True)
    """
    check_tolerance("export.onnx", tolerance)
    need("export.onnx", *PACKAGES)
    given = arguments(inputs)
    with evaluating(model):
        data = onnx_bytes(model, given, "export.onnx")
        found, apart = run_and_compare(data, model, given)
    if not found <= tolerance:
        raise ValueError(
            f"export.onnx: ONNX Runtime's outputs differ from the model's by {found:.1e} of their scale; "
            f"allowed is tolerance={tolerance:.1e}; {path} was not written"
        )
    write_bytes(path, data)
    return Exported("onnx", path.name, len(data), found, apart)


def onnx_bytes(model: nn.Module, given: tuple[Tensor, ...], where: str) -> bytes:
    """Return the checked ONNX file of a model in evaluation mode.

    Args:
        model: The model.
        given: The arguments of one call.
        where: Who exports, for the errors.

    Raises:
        ValueError: If an ONNX file cannot hold the model.

    Example:
        >>> with evaluating(model := nn.Linear(2, 1)):
        ...     len(onnx_bytes(model, (torch.ones(1, 2),), "export.onnx")) > 100
        True
    """
    import onnx

    _need_fitting([*model.parameters(), *model.buffers(), *given], where)
    with explained(where, model):
        program = trace(model, rows(given, max(2, len(given[0]))))
        exported = torch.onnx.export(program, (), dynamo=True, external_data=False, verbose=False)
    if exported is None:
        raise ValueError(f"{where}: this version of torch gave no ONNX program; use torch 2.6 or newer")
    proto = exported.model_proto
    del proto.graph.value_info[:]  # shapes of the inside: readers infer them, and quantizers trip over them
    for noted in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del noted.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def run_and_compare(data: bytes, model: nn.Module, given: tuple[Tensor, ...]) -> tuple[float, float]:
    """Return how far ONNX Runtime and the model are apart, as `compare` does, at three batch sizes.

    Example:
        >>> with evaluating(model := nn.Linear(2, 1)):
        ...     data = onnx_bytes(model, (torch.ones(1, 2),), "export.onnx")
        ...     run_and_compare(data, model, (torch.ones(1, 2),))[0] < 1e-6
        True
    """
    session = open_session(data, torch.get_num_threads())
    names = [taken.name for taken in session.get_inputs()]
    batch = len(given[0])

    def file(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return compare(file, model, given, sorted({1, batch, batch + 1}))


def _need_fitting(tensors: list[Tensor], where: str) -> None:
    """Refuse what an ONNX file or its runtime cannot hold."""
    total = sum(tensor.nbytes for tensor in tensors)
    if total > LIMIT:
        raise ValueError(f"{where}: a file holds at most {LIMIT:,} bytes; model and inputs have {total:,}")
    if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        raise ValueError(
            f"{where}: ONNX Runtime computes no bfloat16 on the CPU, so the file could not be compared; "
            "export model.float()"
        )
