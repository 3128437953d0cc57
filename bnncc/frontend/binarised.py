"""Every binary layer of an exported file must read signs or bits; what can be proved to be such is written as such.

BinaryConv(Neg(Binarize(x)))  ->  BinaryConv(Binarize(Neg(Binarize(x))))      same values, and its kind is stated
"""

from itertools import product
from typing import TYPE_CHECKING

from bnncc.frontend.translate import module_path
from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION, binarize
from bnncc.ops.onnx import LAYERS
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_SIGNS, _BITS = frozenset((-1.0, 1.0)), frozenset((0.0, 1.0))
_MOST_VALUES = 8


def state_binarised(model: "onnx.ModelProto", name: str) -> None:
    """Put a Binarize before each layer whose input needs one; `name` is what errors call the whole module by.

    ModelError: a layer reads something else.
    """
    from onnx import helper

    graph = model.graph
    producer = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for i, layer in reversed(list(enumerate(graph.node))):
        if layer.domain != ONNX_DOMAIN or layer.op_type not in LAYERS:
            continue
        source = _behind_moves(layer.input[0], producer)
        if source is not None and source.op_type == binarize.NAME:
            continue
        values = _values(layer.input[0], producer, constants, depth=32)
        if values is None or not (values <= _SIGNS or values <= _BITS):
            found = "the network's input" if source is None else source.op_type
            where = module_path({prop.key: prop.value for prop in layer.metadata_props}) or name
            raise ModelError(
                f"{where}: input_quantizer ends in {found}; allowed is bnncc.nn.Sign or bnncc.nn.Bits as its last "
                f"step. Move a scale of the input behind the layer."
            )
        again = f"{layer.input[0]}.binarised"
        attributes = {"unipolar": 0 if values <= _SIGNS else 1, "threshold": 0.0}
        stated = helper.make_node(binarize.NAME, [layer.input[0]], [again], domain=ONNX_DOMAIN, **attributes)
        stated.metadata_props.extend(layer.metadata_props)
        layer.input[0] = again
        graph.node.insert(i, stated)
    if not any(entry.domain == ONNX_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(ONNX_DOMAIN, ONNX_VERSION))


def _behind_moves(name: str, producer: dict[str, "onnx.NodeProto"]) -> "onnx.NodeProto | None":
    node = producer.get(name)
    while node is not None and node.op_type in _MOVES:
        node = producer.get(node.input[0])
    return node


def _values(
    name: str, producer: dict[str, "onnx.NodeProto"], constants: dict[str, "onnx.TensorProto"], depth: int
) -> frozenset[float] | None:
    """Every value that the tensor can hold; None where that is not known to be a few."""
    import numpy as np
    from onnx import numpy_helper

    if name in constants:
        distinct = np.unique(numpy_helper.to_array(constants[name]))
        return frozenset(distinct.astype(float).tolist()) if distinct.size <= _MOST_VALUES else None
    node = producer.get(name)
    if node is None or depth == 0:
        return None
    if node.domain == ONNX_DOMAIN and node.op_type == binarize.NAME:
        return _BITS if any(a.name == "unipolar" and a.i for a in node.attribute) else _SIGNS
    if node.domain:
        return None
    inner = [_values(value, producer, constants, depth - 1) for value in node.input if value]
    first = inner[0] if inner else None
    if first is None:
        return None
    if node.op_type in (*_MOVES, "Expand", "Gather", "Slice", "Split"):
        return first
    if node.op_type == "Neg":
        return frozenset(-value for value in first)
    if node.op_type == "Concat" and None not in inner:
        return frozenset().union(*(values for values in inner if values is not None))
    if len(inner) == 2 and (second := inner[1]) is not None:
        pairs = list(product(first, second))
        results = {
            "Mul": {a * b for a, b in pairs},
            "Add": {a + b for a, b in pairs},
            "Sub": {a - b for a, b in pairs},
        }.get(node.op_type)
        return frozenset(results) if results is not None and len(results) <= _MOST_VALUES else None
    return None
