"""Indices that come at run time: as onnxruntime inside the axis, an error with name, index and range outside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import bnncc
from bnncc.codegen import threads
from bnncc.runtime.errors import InputError, ModelError
from bnncc.runtime.model import Model
from tests.arm.emulate import needs_qemu, run
from tests.onnxmodels import Array, node

TABLE = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
KINDS = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}
# Operator, attributes, shape of the indices, extents that they go along.
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "first axis": ("Gather", {"axis": 0}, (2, 2), (3,)),
    "middle axis": ("Gather", {"axis": 1}, (6,), (4,)),
    "last axis": ("Gather", {"axis": -1}, (1, 3), (5,)),
    "one index": ("Gather", {"axis": 1}, (), (4,)),
    "elements": ("GatherElements", {"axis": 1}, (3, 2, 5), (4,)),
    "elements of the last axis": ("GatherElements", {"axis": -1}, (2, 4, 7), (5,)),
    "places": ("GatherND", {}, (6, 3), (3, 4, 5)),
    "places of rows": ("GatherND", {}, (2, 2, 2), (3, 4)),
    "places in a batch": ("GatherND", {"batch_dims": 1}, (3, 2, 2), (4, 5)),
}
CASE = st.sampled_from(sorted(CASES))


def gathering(case: str, kind: str = "int64", *, table: bool = True) -> onnx.ModelProto:
    """`y` = what the case reads of `table` by `where`; the table is a constant, or an input."""
    operator, attributes, shape, _ = CASES[case]
    inputs = [helper.make_tensor_value_info("where", KINDS[kind], shape)]
    constants = [numpy_helper.from_array(TABLE, "table")]
    if not table:
        inputs.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, TABLE.shape))
        constants = []
    rank = {
        "Gather": TABLE.ndim - 1 + len(shape),
        "GatherElements": TABLE.ndim,
        "GatherND": TABLE.ndim - 1 + len(shape) - attributes.get("batch_dims", 0) - (shape or (0,))[-1],
    }[operator]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    nodes = [node(operator, ["table", "where"], "r", **attributes), node("Relu", ["r"], "y")]
    graph = helper.make_graph(nodes, "toy", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def random_indices(case: str, kind: str, seed: int) -> Array:
    _, _, shape, extents = CASES[case]
    random = np.random.default_rng(seed)
    limits = np.broadcast_to(np.array(extents), shape) if len(extents) > 1 else np.full(shape, extents[0])
    return np.asarray(random.integers(-limits, limits), kind).reshape(shape)


def onnxruntime_of(model: onnx.ModelProto, x: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"where": x})[0]
    return result


@settings(max_examples=8, deadline=None)
@given(CASE, st.sampled_from(sorted(KINDS)), st.integers(0, 2**32 - 1), st.data())
def test_inside_as_onnxruntime_and_outside_an_error(case: str, kind: str, seed: int, data: st.DataObject) -> None:
    kind = "int64" if CASES[case][0] == "GatherND" else kind  # which takes no other
    model = gathering(case, kind)
    loaded = bnncc.load(bnncc.compile(model.SerializeToString()))
    x = random_indices(case, kind, seed)
    expected = onnxruntime_of(model, x)
    assert np.array_equal(loaded.run(x)["y"], expected)
    extents, wrong = CASES[case][3], x.copy()
    place = data.draw(st.integers(0, x.size - 1))
    extent, limit = extents[place % len(extents)], np.iinfo(kind).max
    index = data.draw(st.one_of(st.integers(extent, limit), st.integers(-limit - 1, -extent - 1)))
    wrong.reshape(-1)[place] = index
    with pytest.raises(InputError) as caught:
        loaded(wrong)
    message = f"tensor 'where': found index {index}, allowed along an axis of {extent} are {-extent} to {extent - 1}"
    assert str(caught.value) == message
    assert np.array_equal(loaded.run(x)["y"], expected)


@pytest.mark.parametrize("case", CASES)
def test_of_a_tensor_that_is_an_input(case: str) -> None:
    model, x = gathering(case, table=False), random_indices(case, "int64", 1)
    found = bnncc.load(bnncc.compile(model.SerializeToString())).run({"where": x, "table": TABLE})
    assert np.array_equal(found["y"], onnxruntime_of(gathering(case), x))


def two_tables() -> bytes:
    """Two reads by inputs, one by what the network computes of an input, and a convolution worth dividing."""
    random = np.random.default_rng(2)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [2]) for n in ("first", "second")]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    weights = {"table": TABLE, "w": random.standard_normal((4, 4, 3, 3)).astype(np.float32)}
    nodes = [
        node("Gather", ["table", "first"], "a"),
        node("Gather", ["table", "second"], "b", axis=1),
        node("ReduceMax", ["x"], "m", keepdims=0),
        node("Cast", ["m"], "computed", to=TensorProto.INT64),
        node("Gather", ["table", "computed"], "c", axis=2),
        node("Conv", ["x", "w"], "d", pads=[1, 1, 1, 1]),
    ]
    ranks = {"a": 3, "b": 3, "c": 2, "d": 4}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n, rank in ranks.items()]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "toy", [*inputs, image], outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = made.SerializeToString()
    return content


def message_of(model: Model, first: Sequence[int], second: Sequence[int], most: float) -> str:
    image = np.zeros((1, 4, 8, 8), np.float32)
    image[0, 0, 0, 0] = most
    inputs = {"first": np.array(first), "second": np.array(second), "x": image}
    binding = model.bind(inputs)
    messages = []
    for compute in (lambda: model.run(inputs), binding.run):
        try:
            compute()
        except InputError as error:
            messages.append(str(error))
        else:
            messages.append("")
    assert messages[0] == messages[1]
    return messages[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_which_tensor_it_was(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_LEAST_CHUNK", 1)
    monkeypatch.setattr(threads, "_LEAST_WORK", 1)
    model = bnncc.load(bnncc.compile(two_tables()), threads=count)
    assert message_of(model, [0, -3], [3, -4], 4.0) == ""
    assert message_of(model, [0, 3], [3, -4], 4.0).startswith(
        "tensor 'first': found index 3, allowed along an axis of 3"
    )
    assert message_of(model, [0, 2], [3, -5], 4.0).startswith("tensor 'second': found index -5,")
    assert message_of(model, [0, 2], [3, -4], 5.0).startswith("tensor 'computed': found index 5,")
    assert message_of(model, [0, 2], [3, -4], 2.0) == ""


def test_constant_indices_are_checked_when_compiling() -> None:
    graph = gathering("places").graph
    where = numpy_helper.from_array(np.array([[0, 0, 0], [2, 4, 4]]), "where")
    made = helper.make_model(
        helper.make_graph(graph.node, "toy", [helper.make_tensor_value_info("table", TensorProto.FLOAT, TABLE.shape)],
                          graph.output, [where]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    with pytest.raises(ModelError, match="index 4 is outside an axis of 4; allowed: -4 to 3"):
        bnncc.compile(made.SerializeToString())


@pytest.mark.parametrize("target", ["arm", "armv7"])
@pytest.mark.parametrize("case", ["middle axis", "elements", "places in a batch"])
def test_on_arm(case: str, target: str, tmp_path: Path) -> None:
    needs_qemu(target)
    model, x = gathering(case), random_indices(case, "int64", 3)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert np.array_equal(run(path, tmp_path, x, target=target)[0], onnxruntime_of(model, x))
