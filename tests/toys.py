"""Small ONNX files for the tests of what surrounds the compiler."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def add_and_relu(shape: tuple[int | str, ...] = (2, 3)) -> bytes:
    """Inputs `left` and `right`, outputs `sum` = left + right and `positive` = relu(left), all float32."""
    names = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("left", "right", "sum", "positive")]
    nodes = [
        helper.make_node("Add", ["left", "right"], ["sum"], name="add"),
        helper.make_node("Relu", ["left"], ["positive"], name="relu"),
    ]
    return _model(helper.make_graph(nodes, "toy", names[:2], names[2:]))


def one_node(operator: str, domain: str = "") -> bytes:
    """`y` = operator(`x`), float32 [1, 4]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in "xy")
    node = helper.make_node(operator, ["x"], ["y"], name="the_node", domain=domain)
    return _model(helper.make_graph([node], "toy", [x], [y]))


def batch_norm(*, scale: float) -> bytes:
    """`y` = BatchNormalization(`x`) on float32 [1, 2, 4, 4] with `scale` in channel 1."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2, 4, 4)) for name in "xy")
    values = {"gamma": [1.0, scale], "beta": [0.0, 0.0], "mean": [0.0, 0.0], "var": [1.0, 1.0]}
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
    node = helper.make_node("BatchNormalization", ["x", *values], ["y"], name="bn")
    return _model(helper.make_graph([node], "toy", [x], [y], weights))


def convolution_of_other_channels() -> bytes:
    """A Conv whose weight wants 3 input channels where `x` has 4: valid to onnx.checker, refused later on."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 4, 4)) for name in "xy")
    weight = numpy_helper.from_array(np.zeros((4, 3, 1, 1), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="the_conv")
    return _model(helper.make_graph([node], "toy", [x], [y], [weight]))


def _model(graph: onnx.GraphProto) -> bytes:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return content
