"""Small ONNX models for tests, built node by node, with the functions of our domain in the file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION
from bnncc.ops import onnx as operators

Array = np.ndarray[Any, Any]


def node(op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """One node, named after its output."""
    return helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes)


def binary(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """One node of our domain."""
    return node(op, inputs, output, domain=ONNX_DOMAIN, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    shape: Sequence[int | str],
    *,
    outputs: Sequence[str] = ("y",),
    rank: int | None = None,
    opset: int = 18,
    functions: bool = True,
) -> onnx.ModelProto:
    """A model with one float32 input `x` of that shape, and outputs of `rank` free dimensions (default: as x)."""
    free = [None] * (len(shape) if rank is None else rank)
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, free) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ONNX_DOMAIN, ONNX_VERSION)],
        ir_version=10,
        functions=operators.functions() if functions else [],
    )
