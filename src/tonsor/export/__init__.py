"""A model becomes a file others run, reloaded and compared before it is called done."""

from tonsor.export.exported import Exported as Exported
from tonsor.export.exported import Format as Format
from tonsor.export.int8 import to_onnx_int8 as to_onnx_int8
from tonsor.export.onnx import to_onnx as to_onnx
from tonsor.export.onnx_model import OnnxModel as OnnxModel
from tonsor.export.state import to_safetensors as to_safetensors
from tonsor.export.torch_export import to_torch_export as to_torch_export

FORMATS: dict[str, Format] = {
    "safetensors": to_safetensors,
    "onnx": to_onnx,
    "onnx_int8": to_onnx_int8,
    "torch_export": to_torch_export,
}
