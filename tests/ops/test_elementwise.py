"""The table of elementwise operations: what it says holds, in the kernels too, and a new entry is all that it takes."""

import inspect
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tvm import relax

import bnncc
from bnncc import bitpack, compiler
from bnncc.kernels.elementwise import Elementwise
from bnncc.kernels.schedule import Schedule
from bnncc.ops import elementwise
from bnncc.ops.elementwise import OPERATIONS, Operation
from bnncc.targets import find
from bnncc.tir import epilogue as ep
from tests.irtest import build, evaluate
from tests.kernelrun import run
from tests.onnxmodels import Array, binary, model, node

CHANNELS = 24
COMPUTED = [pytest.param(each, id=each.name) for each in OPERATIONS.values() if each.emit is not None]
DIRECTED = [pytest.param(each, id=each.name) for each in OPERATIONS.values() if each.direction is not None]
FLOATS = st.floats(-100, 100, width=32)


def constants(operation: Operation, seed: int) -> list[Array]:
    """A value for each channel for every operand after the first, those of clip and binarize in order."""
    count = len(inspect.signature(operation.emit).parameters) - 2 if operation.emit else 0
    found = np.random.default_rng(seed).standard_normal((count, CHANNELS)).astype(np.float32)
    return list(np.sort(found, axis=0) if operation.name == "clip" else found)


@pytest.mark.parametrize("operation", COMPUTED)
def test_kernels_compute_the_meaning(operation: Operation) -> None:
    """On exact operations there is no tolerance."""
    x = np.random.default_rng(0).standard_normal((1, 3, 5, CHANNELS)).astype(np.float32)
    x[0, 0, 0, :4] = (0.0, -0.0, np.inf, -np.inf)
    others = constants(operation, 1)
    operands = (ep.Operand("value", 0), *(ep.Operand("param", i) for i in range(len(others))))
    step = ep.Step(operation.name, operands)
    epilogue = ep.Epilogue((ep.Param("channel", "float32"),) * len(others), (step,), (ep.Output(1, "float32"),))
    target = find("native")
    got = np.empty_like(x)
    run(Elementwise(ep.Geometry(*x.shape), "float32").build(epilogue, target, Schedule()), target, x, *others, got)
    assert operation.meaning is not None
    np.testing.assert_array_equal(got, operation.meaning(x, *others))


@pytest.mark.parametrize("operation", DIRECTED)
@settings(max_examples=50, deadline=None)
@given(x=arrays.arrays(np.float32, 20, elements=FLOATS), seed=st.integers(0, 99))
def test_directions_hold(operation: Operation, x: Array, seed: int) -> None:
    others = constants(operation, seed)
    if operation.name == "binarize":
        others[1] = np.minimum(others[1], 1)  # what is below gives less
    assert operation.meaning is not None
    assert operation.direction is not None
    values = operation.meaning(np.sort(x)[:, None], *others)
    direction = np.broadcast_to(operation.direction(*others), CHANNELS)
    steps = np.diff(np.broadcast_to(values, (20, CHANNELS)), axis=0)
    assert (steps[:, direction > 0] >= 0).all()
    assert (steps[:, direction < 0] <= 0).all()
    assert (direction != 0).all() or operation.turns


# One meaning of PReLU -------------------------------------------------------------------------------------------

AWKWARD = np.array([np.nan, 0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45], np.float32)


def assert_same_bits(found: Array, wanted: Array) -> None:
    """NaN where NaN is wanted, and signs of zero too."""
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found)[~np.isnan(found)], np.signbit(wanted)[~np.isnan(wanted)])


@pytest.mark.parametrize("op", ["PRelu", "LeakyRelu"])
@pytest.mark.parametrize("slope", [0.25, -0.5])
def test_prelu_is_onnxruntimes(op: str, slope: float) -> None:
    """By the table, by a kernel, and by what TVM is given for an operator that no kernel computes."""
    x = AWKWARD.reshape(1, 8)
    is_prelu = op == "PRelu"
    weights = {"slope": np.full(8, slope, np.float32)} if is_prelu else {}
    attributes: dict[str, Any] = {} if is_prelu else {"alpha": slope}
    source = model([node(op, ["x", *weights], "y", **attributes)], weights, x.shape)
    (want,) = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": x})
    meaning = OPERATIONS[op.lower()].meaning
    assert meaning is not None
    assert_same_bits(meaning(x, np.float32(slope)), want)
    artifact = bnncc.compile(source.SerializeToString())
    assert [layer.kind for layer in artifact.manifest.layers] == ["elementwise"]
    found: Any = bnncc.load(artifact)(x)
    assert_same_bits(found, want)

    def call(v: relax.Expr) -> relax.Expr:
        if is_prelu:
            return relax.op.nn.prelu(v, relax.const(weights["slope"]), axis=1)
        return relax.op.nn.leakyrelu(v, slope)

    assert_same_bits(evaluate(build(call, [x]), x)[0], want)


# A new operation ------------------------------------------------------------------------------------------------


def with_square_roots(x: Array) -> bytes:
    """Two binary layers; behind the first a square root and a sign that become a threshold, behind the second a square
    root whose floats are an output."""
    rng = np.random.default_rng(3)
    numbers = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "channels": CHANNELS}
    weights = {name: bitpack.pack(rng.integers(0, 2, (CHANNELS, 9, CHANNELS)).astype(bool)) for name in ("v", "w")}
    weights["bias"] = rng.integers(0, 99, (CHANNELS, 1, 1)).astype(np.float32)
    weights["limit"] = rng.integers(0, 9, (CHANNELS, 1, 1)).astype(np.float32)
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "v"], "a", **numbers),
        node("Add", ["a", "bias"], "b"),
        node("Sqrt", ["b"], "c"),
        node("Sub", ["c", "limit"], "d"),
        binary("Binarize", ["d"], "t"),
        binary("BinaryConv", ["t", "w"], "e", **numbers),
        node("Add", ["e", "bias"], "f"),
        node("Sqrt", ["f"], "y"),
    ]
    content: bytes = model(nodes, weights, x.shape).SerializeToString()
    return content


def test_an_entry_is_all_that_an_operation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square roots of negative numbers are NaN, whose sign is -1: at the ends of the table they are in it too."""
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, 7, 6)).astype(np.float32)
    source = with_square_roots(x)
    (want,) = onnxruntime.InferenceSession(source).run(None, {"x": x})
    assert np.isnan(want).any()

    def sqrt(a: relax.Expr, lanes: int) -> relax.Expr:
        from tvm.tirx.script.builder import ir as T

        return T.sqrt(a)

    def meaning(a: elementwise.Floats) -> elementwise.Floats:
        return np.sqrt(a)

    without, _ = compiler.inspect(source)
    assert sum("sqrt" in layer.kind for layer in without) == 2
    monkeypatch.setitem(OPERATIONS, "sqrt", Operation(operator="sqrt", meaning=meaning, emit=sqrt))
    layers, passes = compiler.inspect(source)
    assert [layer.kind for layer in layers if layer.kind != "transpose"] == [
        "elementwise",
        "xnor_conv2d",
        "xnor_conv2d",
    ]
    assert "sqrt" in layers[-2].fused or "sqrt" in layers[-1].fused
    assert {p.name: p.rewrites for p in passes}["bnncc.FoldThresholds"] == 1
    found: Any = bnncc.load(bnncc.compile(source))(x)
    np.testing.assert_array_equal(found, want)
