"""Looking inside exported networks: what onnxruntime computes before every sign, and each layer fed the same signs.

Random networks jump as a whole when one sign near zero flips, so they are judged layer by layer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Array = npt.NDArray[Any]
DOMAIN = "bnncc"


@dataclass(frozen=True)
class Reference:
    """What onnxruntime computes. signed: the tensors that are binarised; sums: the results of binary layers."""

    inputs: dict[str, Array]
    signed: dict[str, Array]
    sums: dict[str, Array]
    outputs: dict[str, Array]


def run(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """All outputs by name, in onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def random_input(model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """Normal values for every input."""
    random = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def exposed(path: Path) -> onnx.ModelProto:
    """The network with everything that is binarised, and every sum of a binary layer, as further outputs."""
    model = onnx.load(path)
    known = {output.name for output in model.graph.output} | {value.name for value in model.graph.input}
    for node in _nodes(model):
        name = node.input[0] if node.op_type == "Binarize" else node.output[0]
        if name not in known:
            known.add(name)
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    values = run(model, random_input(model, seed=0))
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, v.shape) for name, v in values.items()]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def reference(path: Path, seed: int) -> Reference:
    """Run the exposed network in onnxruntime."""
    model = exposed(path)
    inputs = random_input(model, seed)
    values = run(model, inputs) | inputs
    nodes = _nodes(model)
    signed = [node.input[0] for node in nodes if node.op_type == "Binarize"]
    sums = [node.output[0] for node in nodes if node.op_type != "Binarize"]
    outputs = [output.name for output in onnx.load(path).graph.output]
    return Reference(
        inputs,
        {name: values[name] for name in signed},
        {name: values[name] for name in sums},
        {name: values[name] for name in outputs},
    )


def forced(path: Path, expected: Reference) -> onnx.ModelProto:
    """The exposed network, whose signs are taken of further inputs `given_NAME` instead of what it computed itself: so
    one difference does not spread, and each binary layer gets exactly the signs onnxruntime gave it."""
    model = exposed(path)
    for node in _nodes(model):
        if node.op_type == "Binarize":
            node.input[0] = f"given_{node.input[0]}"
    for name, value in expected.signed.items():
        given = onnx.helper.make_tensor_value_info(f"given_{name}", onnx.TensorProto.FLOAT, value.shape)
        model.graph.input.append(given)
    return model


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]
