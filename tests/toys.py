"""Small ONNX files for the tests of what surrounds the compiler."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.onnxmodels import model, node


def add_and_relu(shape: tuple[int | str, ...] = (2, 3)) -> bytes:
    """Inputs `left` and `right`, outputs `sum` = left + right and `positive` = relu(left), all float32."""
    names = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("left", "right", "sum", "positive")]
    nodes = [node("Add", ["left", "right"], "sum"), node("Relu", ["left"], "positive")]
    graph = helper.make_graph(nodes, "toy", names[:2], names[2:])
    return _bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def one_node(operator: str, domain: str = "") -> bytes:
    """`y` = operator(`x`), float32 [1, 4]."""
    return _bytes(model([node(operator, ["x"], "y", domain)], {}, (1, 4)))


def batch_norm(*, scale: float) -> bytes:
    """`y` = BatchNormalization(`x`) on float32 [1, 2, 4, 4] with `scale` in channel 1."""
    values = {"gamma": [1.0, scale], "beta": [0.0, 0.0], "mean": [0.0, 0.0], "var": [1.0, 1.0]}
    weights = {name: np.array(value, np.float32) for name, value in values.items()}
    return _bytes(model([node("BatchNormalization", ["x", *weights], "y")], weights, (1, 2, 4, 4)))


def convolution_of_other_channels() -> bytes:
    """A Conv whose weight wants 3 input channels where `x` has 4: valid to onnx.checker, refused later on."""
    weights = {"w": np.zeros((4, 3, 1, 1), np.float32)}
    return _bytes(model([node("Conv", ["x", "w"], "y")], weights, (1, 4, 4, 4)))


def _bytes(made: onnx.ModelProto) -> bytes:
    content: bytes = made.SerializeToString()
    return content
