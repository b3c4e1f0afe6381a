"""Whether sums of 8-bit products overflow on this machine."""

COUNT = 64


def overflows() -> bool:
    """Multiply the largest numbers of 8 bits in ONNX Runtime, and return whether the sum comes out wrong.

    An x86 without VNNI adds products in pairs of 16 bits, which hold 32,767; 2 x 255 x 127 is 64,770.

    Returns:
        Whether weights need to be kept to 7 bits here.

    Example:
        >>> overflows() in (True, False)
        True
    """
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from tonsor.export.onnx_model import open_session

    weight = numpy_helper.from_array(numpy.full((COUNT, COUNT), 127, numpy.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "overflow",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [COUNT, COUNT])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [COUNT, COUNT])],
        [weight],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    (got,) = open_session(model.SerializeToString(), 1).run(
        None, {"x": numpy.full((COUNT, COUNT), 255, numpy.uint8)}
    )
    return bool((got != COUNT * 255 * 127).any())
