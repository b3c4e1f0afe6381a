"""What of an ONNX graph can be computed in int8."""

from collections import Counter
from collections.abc import Collection
from typing import Any


def has_weights(proto: Any, operations: Collection[str], /) -> bool:
    """Return whether one of some operations is given a constant matrix of float32.

    Args:
        proto: An `onnx.ModelProto`.
        operations: Their names.

    Example:
        >>> import onnx, torch
        >>> from tonsor.export.onnx import onnx_bytes
        >>> data = onnx_bytes(torch.nn.Linear(2, 1).eval(), (torch.ones(2, 2),), "export.onnx")
        >>> proto = onnx.load_model_from_string(data)
        >>> has_weights(proto, ["Gemm", "MatMul"]), has_weights(proto, ["Conv"])
        (True, False)
    """
    whole = {
        held.name for held in proto.graph.initializer if held.data_type == held.FLOAT and len(held.dims) > 1
    }
    return any(whole & set(node.input) for node in proto.graph.node if node.op_type in operations)


def untie_(proto: Any, /) -> None:
    """Give every dense layer a matrix of its own.

    The dynamic quantizer transposes a layer's matrix where it lies, without a look at who else uses it.

    Args:
        proto: An `onnx.ModelProto`, changed in place.

    Example:
        >>> import onnx
        >>> text = "float[1, 1] w = {2}> { y = Gemm(x, w) z = Gemm(y, w) }"
        >>> graph = onnx.parser.parse_graph(f"a (float[1, 1] x) => (float[1, 1] z) <{text}")
        >>> proto = onnx.helper.make_model(graph)
        >>> untie_(proto)
        >>> [node.input[1] for node in proto.graph.node]
        ['w of node 0', 'w']
    """
    held = {initializer.name: initializer for initializer in proto.graph.initializer}
    uses = Counter(name for node in proto.graph.node for name in node.input)
    for number, node in enumerate(proto.graph.node):
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in held and uses[name] > 1:
            copied = proto.graph.initializer.add()
            copied.CopyFrom(held[name])
            copied.name = node.input[1] = f"{name} of node {number}"
            uses[name] -= 1
