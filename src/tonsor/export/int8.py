"""A model as an ONNX file that computes in int8, compared with the model before it is written."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from tonsor.export.calibration import Calibration
from tonsor.export.exported import Exported, arguments, check_tolerance
from tonsor.export.onnx import PACKAGES, onnx_bytes, run_and_compare
from tonsor.export.onnx_model import in_a_line, refusals
from tonsor.export.overflow import overflows
from tonsor.export.quantizable import has_weights, untie_
from tonsor.export.traced import need, quiet
from tonsor.files import write_bytes
from tonsor.modes import evaluating
from tonsor.spelling import unknown

RANGES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile", "dynamic": ""}
WEIGHTED = ["Conv", "Gemm", "MatMul", "Gather"]  # where a constant is large, and int8 saves
HANDING = ["MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Relu", "Clip"]  # int8 on
DYNAMIC = ["Gemm", "MatMul", "Gather", "LSTM"]  # convolutions were slower than in float32


def to_onnx_int8(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    path: Path,
    /,
    *,
    calibration: Iterable[Tensor | tuple[Any, ...]] | None = None,
    ranges: Literal["minmax", "entropy", "percentile", "dynamic"] = "minmax",
    tolerance: float = 0.2,
    reduce_range: bool | None = None,
) -> Exported:
    r"""Write a model as an ONNX file that computes in int8, without training, and prove how near it comes.

    Weights of linear layers and convolutions are rounded to :math:`q = \mathrm{round}(w / s)`, with a step
    :math:`s = \max|w| / 127` for each output; what they are multiplied with to 256 levels of its range, which
    a calibration has found. Embeddings have one step for all rows. All else (attention, norms, sums) is
    computed in float32: rounded too, it takes a transformer apart and gains no time.

    The file is run by ONNX Runtime on the CPU at the batch size of the inputs, at 1, and at one more. It is
    refused where :math:`\lVert a - b\rVert / \lVert b\rVert` of an output, over all of them, is above the
    tolerance. What int8 suits stays below 0.03; 0.2 is an angle of 11 degrees between the outputs.

    Args:
        model: The model, which `torch.export` must be able to trace; left as it was.
        inputs: One tensor or a tuple of tensors, each with the batch first.
        path: Where the file shall stand.
        calibration: Batches, each as `inputs` is, like what the model will meet: some hundred samples. None
            takes the inputs.
        ranges: How the range of an activation is found. "minmax": all that the calibration saw. "entropy",
            "percentile": without rare outliers; these hold all activations in memory. "dynamic": anew in
            each call, without calibration. That is nearer for transformers, as fast for them, and rounds
            LSTMs too; but convolutions stay float32.
        tolerance: The largest difference allowed, above 0; bigger allows more.
        reduce_range: Whether weights have 7 bits, so that sums of products do not overflow on an x86 without
            VNNI; None finds out whether they do on this machine.

    Returns:
        What was written.

    Raises:
        ValueError: If the model cannot be exported with a free batch size, has nothing to quantize, or int8
            changes it by more than the tolerance; nothing is written.
        ModuleNotFoundError: If onnx, onnxruntime or onnxscript is missing: says how to install them.
        OSError: If the file cannot be written; what stood there before is kept.

    Example:
        >>> import tempfile, torch
        >>> _ = torch.manual_seed(0)
        >>> path, x = Path(tempfile.mkdtemp()) / "a.int8.onnx", torch.randn(64, 32)
        >>> exported = to_onnx_int8(nn.Linear(32, 8), x, path, calibration=[x, 2 * x])
        >>> exported.file, exported.rms_difference < 0.02
        ('a.int8.onnx', True)

    References:
        Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, 2018. https://arxiv.org/abs/1712.05877
    """
    if ranges not in RANGES:
        raise ValueError(f"export.onnx_int8: {unknown('ranges', ranges, RANGES)}")
    check_tolerance("export.onnx_int8", tolerance)
    need("export.onnx_int8", *PACKAGES)
    given = arguments(inputs)
    with evaluating(model):
        whole = onnx_bytes(model, given, "export.onnx_int8")
        _need_weights(whole, model, ranges)
        reduced = overflows() if reduce_range is None else reduce_range
        batches = [given] if calibration is None else calibration
        data = _dynamic(whole, reduced) if ranges == "dynamic" else _static(whole, batches, ranges, reduced)
        found, apart = run_and_compare(data, model, given)
    if not apart <= tolerance:
        raise ValueError(
            f"export.onnx_int8: int8 changes the outputs by {apart:.1%} of their norm; allowed is tolerance="
            f"{tolerance:.1%}; {path} was not written. More calibration or other ranges may help"
        )
    write_bytes(path, data)
    return Exported("onnx_int8", path.name, len(data), found, apart)


def _need_weights(whole: bytes, model: nn.Module, ranges: str) -> None:
    """Refuse a model that would stay as it is."""
    import onnx

    known, first = (DYNAMIC, "LSTMs") if ranges == "dynamic" else (WEIGHTED, "convolutions")
    if not has_weights(onnx.load_model_from_string(whole), known):
        raise ValueError(
            f'export.onnx_int8: {type(model).__name__} has nothing to quantize with ranges="{ranges}"; '
            f"expected {first}, linear layers or embeddings of float32"
        )


def _static(whole: bytes, calibration: Iterable[Any], ranges: str, reduced: bool) -> bytes:
    """Return the file with ranges of activations that a calibration has found."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    options = {
        "MatMulConstBOnly": True,  # products of activations, as in attention, stay float32
        "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],  # ten times nearer at a model's end
    }
    return _written(
        quantize_static,
        onnx.load_model_from_string(whole),
        calibration_data_reader=Calibration(whole, calibration),
        op_types_to_quantize=[*WEIGHTED, *HANDING],
        per_channel=True,
        reduce_range=reduced,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[RANGES[ranges]],
        extra_options=options,
    )


def _dynamic(whole: bytes, reduced: bool) -> bytes:
    """Return the file with activations whose ranges each call finds."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = onnx.load_model_from_string(whole)
    untie_(proto)
    return _written(
        quantize_dynamic,
        proto,
        op_types_to_quantize=DYNAMIC,
        per_channel=True,
        reduce_range=reduced,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def _written(quantize: Any, whole: Any, **settings: Any) -> bytes:
    """Return the file that a quantizer of ONNX Runtime's makes, without its notes."""
    import onnx

    failures: tuple[type[Exception], ...] = (AssertionError, *refusals())
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        try:
            quantize(whole, path, **settings)
        except failures as error:
            raise ValueError(
                f"export.onnx_int8: ONNX Runtime cannot quantize the model: {in_a_line(error)}; are the "
                "batches of the calibration shaped like the inputs, and all values finite?"
            ) from error
        proto = onnx.load_model(path)
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))
