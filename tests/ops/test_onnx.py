"""Binarize, BinaryConv and BinaryGemm: numpy meaning == stock onnxruntime == an independent reference, exactly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bnncc import bitpack
from bnncc.ops import binarize, binary_conv, binary_gemm
from bnncc.ops.onnx import OPERATORS

Array = npt.NDArray[Any]
FUNCTIONS = {op.NAME: op.function() for op in OPERATORS}


def one_node(op: str, inputs: dict[str, Array], weights: dict[str, Array], **attributes: Any) -> onnx.ModelProto:
    """A checked model of one bnncc node: `inputs` are fed, `weights` are stored in the file."""
    rank = next(iter(inputs.values())).ndim
    graph = helper.make_graph(
        [helper.make_node(op, [*inputs, *weights], ["y"], domain="bnncc", **attributes)],
        "one_node",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("bnncc", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[FUNCTIONS[op]], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def run(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y: Array = session.run(None, inputs)[0]
    return y


SPECIAL = np.array([[0.0, -0.0, 1e-45, -1e-45, 0.5, -0.5, np.inf, -np.inf, np.nan]], np.float32)


@pytest.mark.parametrize(
    ("unipolar", "threshold", "expected"),
    [
        (0, 0.0, [1, 1, 1, -1, 1, -1, 1, -1, -1]),
        (0, 9.0, [1, 1, 1, -1, 1, -1, 1, -1, -1]),  # the threshold belongs to {0, 1} alone
        (1, 0.0, [0, 0, 1, 0, 1, 0, 1, 0, 0]),
        (1, 0.5, [0, 0, 0, 0, 0, 0, 1, 0, 0]),
        (1, -0.5, [1, 1, 1, 1, 1, 0, 1, 0, 0]),
    ],
)
def test_binarize(unipolar: int, threshold: float, expected: list[int]) -> None:
    np.testing.assert_array_equal(
        binarize.meaning(SPECIAL, unipolar=bool(unipolar), threshold=threshold), np.array([expected], np.float32)
    )
    model = one_node("Binarize", {"x": SPECIAL}, {}, unipolar=unipolar, threshold=threshold)
    np.testing.assert_array_equal(run(model, {"x": SPECIAL}), np.array([expected], np.float32))


def test_binarize_defaults_to_signs() -> None:
    np.testing.assert_array_equal(
        run(one_node("Binarize", {"x": SPECIAL}, {}), {"x": SPECIAL}), binarize.meaning(SPECIAL)
    )


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Array, Array, dict[str, Any]]:
    """Activations [N, C, ...], weight signs [O, Cg, ...] and the attributes of one 1-D or 2-D convolution."""
    spatial = draw(st.integers(1, 2))

    def extents(low: int, high: int, count: int = spatial) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel, strides, dilations = extents(1, 5), extents(1, 3), extents(1, 3)
    pads = extents(0, 3, 2 * spatial)
    group, channels = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    filters = group * draw(st.integers(1, 3))
    size = [
        max(1, d * (k - 1) + 1 - pads[i] - pads[i + spatial]) + draw(st.integers(0, 4))
        for i, (k, d) in enumerate(zip(kernel, dilations, strict=True))
    ]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.array(draw(st.sampled_from([[-1, 1], [0, 1]])), np.float32)
    x = rng.choice(values, (draw(st.integers(1, 2)), group * channels, *size))
    w = rng.choice(np.array([-1, 1], np.float32), (filters, channels, *kernel))
    return (
        x,
        w,
        {
            "channels": channels,
            "kernel_shape": kernel,
            "strides": strides,
            "pads": pads,
            "dilations": dilations,
            "group": group,
            "pad_value": draw(st.sampled_from([-1.0, 0.0, 1.0])),
        },
    )


def packed(w: Array) -> npt.NDArray[np.uint8]:
    """Weight signs [O, Cg, *kernel] -> uint8 [O, taps, bytes]."""
    return bitpack.pack(np.moveaxis(w.reshape(*w.shape[:2], -1), 1, 2) > 0)


def torch_convolution(x: Array, w: Array, attributes: dict[str, Any]) -> Array:
    """The same in torch: pad, then convolve unpacked float weights."""
    pads: Sequence[int] = attributes["pads"]
    spatial = len(pads) // 2
    border = [p for i in reversed(range(spatial)) for p in (pads[i], pads[i + spatial])]
    padded = torch.nn.functional.pad(torch.from_numpy(x), border, value=attributes["pad_value"])
    convolve = torch.nn.functional.conv1d if spatial == 1 else torch.nn.functional.conv2d
    y: Array = convolve(
        padded,
        torch.from_numpy(w),
        stride=attributes["strides"],
        dilation=attributes["dilations"],
        groups=attributes["group"],
    ).numpy()
    return y


@settings(max_examples=50, deadline=None)
@given(convolutions())
def test_binary_conv(case: tuple[Array, Array, dict[str, Any]]) -> None:
    x, w, attributes = case
    expected = binary_conv.meaning(x, packed(w), **attributes)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(expected, torch_convolution(x, w, attributes))
    model = one_node("BinaryConv", {"x": x}, {"w": packed(w)}, **attributes)
    np.testing.assert_array_equal(run(model, {"x": x}), expected)


def test_binary_conv_by_hand() -> None:
    """Two pixels, two channels, a border of each kind: small enough to check on paper."""
    x = np.array([[[1, -1], [1, 1]]], np.float32)  # [1, C=2, L=2]
    w = packed(np.array([[[1, 1], [-1, 1]]], np.float32))  # [O=1, C=2, K=2]
    for pad_value, expected in ((0.0, [2, 0, -2]), (1.0, [2, 0, 0]), (-1.0, [2, 0, -4])):
        y = binary_conv.meaning(
            x,
            w,
            channels=2,
            kernel_shape=[2],
            strides=[1],
            pads=[1, 1],
            dilations=[1],
            pad_value=pad_value,
        )
        np.testing.assert_array_equal(y, np.array([[expected]], np.float32))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_binary_gemm(rows: int, channels: int, columns: int, unipolar: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([0 if unipolar else -1, 1], np.float32), (rows, channels))
    w = rng.choice(np.array([-1, 1], np.float32), (columns, channels))
    bits = bitpack.pack(w > 0)
    expected = binary_gemm.meaning(x, bits, channels=channels)
    np.testing.assert_array_equal(expected, x @ w.T)
    np.testing.assert_array_equal(
        run(one_node("BinaryGemm", {"x": x}, {"w": bits}, channels=channels), {"x": x}), expected
    )


def test_runtime_folds_the_unpacking(tmp_path: Path) -> None:
    """After loading only Pad, Conv and Round remain: the weights are no longer unpacked at each run."""
    x, w = np.ones((1, 12, 6, 6), np.float32), np.zeros((4, 9, 2), np.uint8)
    attributes = {"channels": 12, "kernel_shape": [3, 3], "strides": [2, 1], "pads": [1] * 4, "dilations": [1, 1]}
    model = one_node("BinaryConv", {"x": x}, {"w": w}, pad_value=1.0, **attributes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(options.optimized_model_filepath)
    assert [node.op_type for node in optimised.graph.node] == ["Pad", "Conv", "Round"]


def test_runtime_does_not_fold_a_batch_norm_into_the_weights() -> None:
    """BatchNorm of an exact 0 with bias 0 is 0, whose sign is +1; in folded weights 0 would become a rounding error."""
    rng = np.random.default_rng(7)
    x = rng.choice(np.array([-1, 1], np.float32), (1, 64, 8, 8))
    w = rng.choice(np.array([-1, 1], np.float32), (16, 64, 3, 3))
    attributes: dict[str, Any] = {
        "channels": 64,
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "pads": [1] * 4,
        "dilations": [1, 1],
    }
    model = one_node("BinaryConv", {"x": x}, {"w": packed(w)}, **attributes)
    model.graph.node[0].output[0] = "sums"
    model.graph.node.append(helper.make_node("BatchNormalization", ["sums", "gamma", "beta", "beta", "var"], ["y"]))
    for name, value in (("gamma", 0.37), ("beta", 0.0), ("var", 1.3)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(16, value, np.float32), name))
    zero = binary_conv.meaning(x, packed(w), **attributes) == 0
    assert zero.sum() > 10
    np.testing.assert_array_equal(run(model, {"x": x})[zero], np.float32(0))


@pytest.mark.parametrize("op", OPERATORS)
def test_schema_agrees_with_the_function(op: Any) -> None:
    schema, function = op.schema(), op.function()
    assert (schema.name, schema.domain, schema.since_version) == (op.NAME, "bnncc", 1)
    assert (function.name, function.domain) == (op.NAME, "bnncc")
    assert len(schema.inputs) == len(function.input)
    defaults = {a.name: a for a in function.attribute_proto}
    assert set(schema.attributes) == {*function.attribute, *defaults}
    for name, attribute in schema.attributes.items():
        assert attribute.required == (name in function.attribute)
        if name in defaults:
            assert attribute.default_value == defaults[name]


def test_schema_infers_shapes() -> None:
    """Strip the functions and register the schemas: shapes follow from them alone."""
    x, w = np.ones((2, 12, 7, 9), np.float32), np.zeros((4, 6, 2), np.uint8)
    attributes = {"channels": 12, "kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}
    conv = one_node("BinaryConv", {"x": x}, {"w": w}, **attributes)
    a, b = np.ones((5, 12), np.float32), np.zeros((3, 2), np.uint8)
    gemm = one_node("BinaryGemm", {"x": a}, {"w": b}, channels=12)
    sign = one_node("Binarize", {"x": x}, {})
    steps = np.array([[0, 1, 2, 3]], np.int32)
    interaction = one_node("ChannelInteraction", {"x": x}, {"up": steps, "down": steps})
    schemas = [op.schema() for op in OPERATORS]
    for schema in schemas:
        onnx.defs.register_schema(schema)
    try:
        for model, expected in ((conv, (2, 4, 4, 8)), (gemm, (5, 3)), (sign, x.shape), (interaction, x.shape)):
            del model.functions[:]
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
            assert tuple(d.dim_value for d in inferred.type.tensor_type.shape.dim) == expected
    finally:
        for schema in schemas:
            onnx.defs.deregister_schema(schema.name, schema.since_version, schema.domain)
