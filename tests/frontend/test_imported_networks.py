"""Whole ONNX files: exported networks agree with onnxruntime; inputs and outputs keep their names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bnncc.frontend.importer import from_onnx
from tests.irtest import evaluate
from tests.onnxmodels import model, node


@pytest.mark.parametrize("name", ["digits_net", pytest.param("vgg_small", marks=pytest.mark.slow), "bireal_resnet20"])
def test_exported_network(name: str, exported: Callable[[str], Path]) -> None:
    imported = from_onnx(exported(name))
    shape = [int(extent) for extent in imported.module["main"].params[0].ty.shape.values]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(exported(name))
    (want,) = session.run(list(imported.outputs), {imported.inputs[0]: x})
    (got,) = evaluate(imported.module, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_weights_listed_as_inputs_are_weights() -> None:
    content = model([node("Add", ["x", "w"], "y")], {"w": np.ones(4, np.float32)}, (1, 4))
    content.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    assert from_onnx(content).inputs == ("x",)


def test_names_that_are_no_identifiers() -> None:
    content = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["a/1", "a.1"], ["out:0"])],
            "odd names",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a/1", "a.1")],
            [helper.make_tensor_value_info("out:0", TensorProto.FLOAT, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    imported = from_onnx(content)
    assert (imported.inputs, imported.outputs) == (("a/1", "a.1"), ("out:0",))
