"""Standard operators from the file to the artifact: onnxruntime's numbers, or one line that says what is not done."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import bnncc
from bnncc import bitpack
from bnncc.nn import BinaryConv1d, BinaryConv2d
from bnncc.runtime.errors import ModelError
from tests.onnxmodels import Array, binary, model, node

RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf


def quarters(*shape: int) -> Array:
    """Multiples of 1/4, with which sums are exact."""
    return (RNG.integers(-16, 17, shape) / 4).astype(np.float32)


def check(
    nodes: list[onnx.NodeProto],
    x: Array,
    weights: dict[str, Any] | None = None,
    *,
    opset: int = 18,
    rtol: float = 0.0,
    target: str = "native",
) -> None:
    """The artifact and onnxruntime give the same for output y, in type, shape and numbers; NaN is NaN."""
    arrays = {name: np.asarray(value) for name, value in (weights or {}).items()}
    ours = any(n.domain for n in nodes)
    content = model(nodes, arrays, x.shape, opset=opset, functions=ours)
    content.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    content.graph.output[0].ClearField("type")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (want,) = onnxruntime.InferenceSession(content.SerializeToString(), options).run(None, {"x": x})
    if ours:
        del content.functions[:]
    kind = content.graph.output[0].type.tensor_type
    kind.elem_type = onnx.helper.np_dtype_to_tensor_dtype(want.dtype)
    for extent in want.shape:
        kind.shape.dim.add().dim_value = extent
    got: Any = bnncc.load(bnncc.compile(content.SerializeToString(), target))(x)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol, equal_nan=True)


def refuse(nodes: list[onnx.NodeProto], shape: tuple[int, ...], weights: dict[str, Any], message: str) -> None:
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    content = model(nodes, arrays, shape, opset=20, functions=False)
    with pytest.raises(ModelError, match=message) as found:
        bnncc.compile(content.SerializeToString())
    assert "\n" not in str(found.value)
    assert "node 'y'" in str(found.value) or "weight 'w'" in str(found.value)


# --- shapes that are no images ---


@pytest.mark.parametrize("shape", [(5,), (70,), (2, 3, 5), (1, 2, 3, 4, 2), (2, 1, 2, 3, 1, 4)])
@pytest.mark.parametrize("op", ["Relu", "Mul", "LeakyRelu", "PRelu", "Clip"])
def test_elementwise_at_any_rank(op: str, shape: tuple[int, ...]) -> None:
    weights: dict[str, Any] = {"w": np.float32(0.5)} if op in ("Mul", "Clip") else {}
    if op == "PRelu":
        weights = {"w": quarters(*shape[-1:])}
    check([node(op, ["x", *weights], "y")], quarters(*shape), weights)


@pytest.mark.parametrize("op", ["Sub", "Div", "Max", "Pow"])
def test_a_constant_as_first_operand(op: str) -> None:
    x = np.abs(quarters(1, 3, 4, 4)) + np.float32(1)
    check([node(op, ["w", "x"], "y")], x, {"w": np.array([1.5], np.float32)}, rtol=1e-6)


@pytest.mark.parametrize("op", ["Elu", "Selu", "Softplus", "Mish", "Reciprocal"])
def test_operators_made_of_several(op: str) -> None:
    x = quarters(1, 3, 4, 4) + np.float32(0.125)
    check([node(op, ["x"], "y")], x, rtol=1e-5)
    conv = [node("Conv", ["x", "w"], "c"), node(op, ["c"], "y")]
    check(conv, x, {"w": quarters(3, 3, 1, 1) + np.float32(0.03)}, rtol=1e-4)


@pytest.mark.parametrize("op", ["Exp", "Tanh", "Sigmoid", "Log", "Floor"])
def test_functions_of_64_bits(op: str) -> None:
    x = np.abs(quarters(2, 5)).astype(np.float64) + 0.5
    check([node(op, ["x"], "y")], x, rtol=1e-6)


def test_prelu_on_what_keeps_its_layout() -> None:
    """Behind a Split, width = channels: the slopes are the channels'."""
    weights = {"n": np.array([4, 4]), "s": np.array([0.5, 0.25, 0.125, 2], np.float32).reshape(4, 1, 1)}
    split = onnx.helper.make_node("Split", ["x", "n"], ["a", "b"], axis=1)
    check([split, node("PRelu", ["a", "s"], "y")], quarters(1, 8, 3, 4), weights)


@pytest.mark.parametrize(("layer", "shape"), [(BinaryConv2d, (8, 5, 6)), (BinaryConv1d, (8, 9))])
def test_layers_without_a_batch(layer: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    module = nn.Sequential(layer(8, 4, 3, padding=1))
    for extents in (shape, (2, *shape)):
        assert_exported(module, extents, tmp_path / "m.onnx")


@pytest.mark.parametrize(("float_layer", "layer", "shape"), [
    (nn.Conv2d, BinaryConv2d, (1, 8, 5, 6)), (nn.Conv1d, BinaryConv1d, (2, 8, 9)),
])  # fmt: skip
def test_circular_padding(float_layer: Any, layer: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    module = nn.Sequential(float_layer(8, 8, 3, padding=1, padding_mode="circular"), layer(8, 4, 1))
    assert_exported(module, shape, tmp_path / "m.onnx")


def assert_exported(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    bnncc.export(module.eval(), x, path)
    (got,) = bnncc.load(bnncc.compile(path)).run(x.numpy()).values()
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-5, atol=1e-5)


# --- attributes and constants ---


@pytest.mark.parametrize(
    ("op", "x", "weights", "attributes"),
    [
        ("Gather", quarters(1, 3, 4, 4), {"i": np.array([0, -2], np.int32)}, {"axis": 3}),
        ("Gather", quarters(1, 3, 4, 4), {"i": np.array(-2)}, {"axis": 2}),
        ("Clip", np.arange(-5, 5), {"a": np.int64(-2), "b": np.int64(3)}, {}),
        ("Clip", np.array([INF, -INF, 1], np.float32), {"a": np.float32(0)}, {}),
        ("OneHot", np.array([[0, -1], [2, 7]]), {"d": np.int64(3), "v": np.array([0, 2], np.float32)}, {}),
        ("OneHot", np.array([1, 2], np.int32), {"d": np.int32(4), "v": np.array([5, 6], np.float32)}, {"axis": 0}),
        ("Pad", quarters(1, 1, 5, 6), {"p": np.array([0, 0, -1, 1, 0, 0, 2, -1])}, {"mode": "wrap"}),
        ("Pad", quarters(2, 5), {"p": np.array([-1, 2, 1, -2])}, {"mode": "edge"}),
        ("Pad", quarters(2, 5), {"p": np.array([0, 2, 1, 3])}, {"mode": "reflect"}),
        ("Resize", quarters(1, 1, 5, 6), {"": [], "s": np.array([1, 1, 0.5, 1], np.float32)}, {"mode": "nearest"}),
        ("Resize", quarters(1, 2, 4, 4), {"": [], "s": np.array([1, 2, 2, 2], np.float32)}, {"mode": "nearest"}),
        ("Resize", quarters(1, 1, 5, 6), {"": [], "s": np.array([1, 1, 0.7, 1.4], np.float32)}, {"mode": "linear"}),
        ("Resize", quarters(1, 1, 5, 6), {"": [], "s": np.array([1, 1, 0.7, 2.5], np.float32)}, {"mode": "cubic"}),
        ("Cast", np.array([0.25, 0.0, -0.5], np.float32), {}, {"to": onnx.TensorProto.BOOL}),
        ("Expand", quarters(3, 1), {"s": np.array([2, 1, 4])}, {}),
        ("ReduceSum", np.arange(6).reshape(2, 3), {"a": np.array([-1])}, {}),
        ("Gemm", quarters(2, 4).astype(np.float64), {"w": quarters(4, 3).astype(np.float64)}, {}),
        ("Add", np.arange(6).reshape(1, 3, 2, 1), {"w": np.array([[[2**40]]])}, {}),
    ],
)
def test_as_onnxruntime(op: str, x: Array, weights: dict[str, Any], attributes: dict[str, Any]) -> None:
    arrays = {name: value for name, value in weights.items() if name}
    check([node(op, ["x", *weights], "y", **attributes)], x, arrays, opset=19, rtol=1e-5 if op == "Resize" else 0.0)


_NEAREST = [
    (coordinates, rounding)
    for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    # These are refused where a place is a whole number but for a rounding error: onnxruntime's errors are others.
    if coordinates != "half_pixel_symmetric" or rounding.startswith("round")
]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "half_pixel_symmetric"])
def test_scales_that_keep_every_size(mode: str, coordinates: str) -> None:
    """onnxruntime then gives the input, where the formula would move it."""
    modes = {"coordinate_transformation_mode": coordinates, "mode": mode, "nearest_mode": "floor"}
    x, scales = np.arange(12, dtype=np.float32).reshape(1, 1, 4, 3), np.array([1, 1, 1.2, 1.3], np.float32)
    check([node("Resize", ["x", "", "s"], "y", **modes)], x, {"s": scales}, opset=19)


@pytest.mark.parametrize(("coordinates", "rounding"), _NEAREST)
def test_the_nearest_place(coordinates: str, rounding: str) -> None:
    """Sizes whose scales are no floats: middles that float arithmetic misses by a little, and places beside one."""
    modes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding, "mode": "nearest"}
    for old, new in (((15, 7, 23, 14), (8, 2, 14, 19)), ((22, 26, 3, 19), (13, 28, 11, 15))):
        x = np.arange(np.prod(old), dtype=np.float32).reshape(old)
        check([node("Resize", ["x", "", "", "s"], "y", **modes)], x, {"s": np.array(new)}, opset=19)


@pytest.mark.parametrize(
    ("nodes", "shape", "weights", "message"),
    [
        ([node("Resize", ["x", "", "s"], "y", antialias=1)], (1, 1, 4, 4), {"s": np.ones(4, np.float32)}, "antialias"),
        ([node("Resize", ["x", "", "", "s"], "y", mode="nearest", nearest_mode="floor",
               coordinate_transformation_mode="half_pixel_symmetric")], (1, 1, 3, 4), {"s": np.array([1, 1, 11, 4])},
         "axis 2: a place falls on a whole number"),
        ([node("ConvTranspose", ["x", "w"], "y", output_shape=[8, 8])], (1, 2, 4, 4), {"w": quarters(2, 1, 3, 3)},
         "output_shape"),
        ([node("LpPool", ["x"], "y", kernel_shape=[3, 3], ceil_mode=1)], (1, 2, 4, 4), {}, "ceil_mode is 1"),
        ([node("CumSum", ["x", "a"], "y")], (1, 4), {"a": np.array(1)}, "no such operator here"),
        ([node("Dropout", ["x", "r", "t"], "y")], (1, 4), {"r": np.float32(0.5), "t": np.array(True)}, "model.eval"),
        ([node("Gather", ["x", "i"], "y")], (3, 4), {"i": np.array([3])}, "index 3 is outside an axis of 3"),
        ([node("Range", ["a", "b", "c"], "y")], (1, 4),
         {"a": np.float32(0), "b": np.float32(1e30), "c": np.float32(1)}, "its output 'y'|depends"),
        ([node("ConstantOfShape", ["s"], "y")], (1, 4), {"s": np.array([2**20, 2**20])}, "values, allowed"),
        ([node("Tile", ["x", "r"], "y")], (1, 4), {"r": np.array([2**20, 2**20])}, "values, allowed"),
        ([node("Cast", ["x"], "y", to=onnx.TensorProto.FLOAT16)], (1, 4), {}, "FLOAT16.*convert the model to float32"),
        ([node("MaxPool", ["x"], "y", kernel_shape=[2, 2], pads=[1] * 4, dilations=[2, 2])], (1, 8, 1, 1), {},
         "a window would lie in the padding"),
        ([node("Conv", ["x", "w"], "y", strides=[2**40] * 2)], (1, 2, 4, 4), {"w": quarters(2, 2, 3, 3)}, "strides is"),
        ([node("Conv", ["x", "w"], "y", pads=[2**31 - 1] * 4)], (1, 2, 4, 4), {"w": quarters(2, 2, 3, 3)},
         "values, allowed"),
        ([node("MaxPool", ["x"], "y", kernel_shape=[2**40, 2])], (1, 2, 4, 4), {}, "kernel_shape is"),
    ],
)  # fmt: skip
def test_refused(nodes: Any, shape: tuple[int, ...], weights: dict[str, Any], message: str) -> None:
    refuse(nodes, shape, weights, message)


PACKED = bitpack.pack(np.ones((8, 9, 8), bool))
NUMBERS = {"channels": 8, "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [2**40] * 2}, "strides is .* each must be in 1 to"),
        ({"strides": [2**20] * 2, "pads": [2**20] * 4}, "values, allowed"),
        ({"pads": [2**31] * 4}, "pads is .* each must be in 0 to"),
        ({"strides": 1}, "strides is 1; it must be 2 whole numbers"),
        ({"strides": [1.0, 1.0]}, "must be 2 whole numbers"),
        ({"channels": 8.0}, "channels is 8.0; it must be a whole number"),
        ({"channels": 2**40}, "for 1099511627776 channels"),
        ({"pad_value": "one"}, "pad_value is b'one'; it must be a number"),
    ],
)
def test_hostile_attributes_of_binary_layers(changes: dict[str, Any], message: str) -> None:
    refuse([binary("BinaryConv", ["x", "w"], "y", **NUMBERS | changes)], (1, 8, 5, 5), {"w": PACKED}, message)


@pytest.mark.parametrize("inputs", [["x"], ["x", "w", "w"], ["x", ""]])
def test_binary_layers_with_other_inputs(inputs: list[str]) -> None:
    refuse([binary("BinaryConv", inputs, "y", **NUMBERS)], (1, 8, 5, 5), {"w": PACKED}, "needed: 2 and 1")


def test_data_that_is_longer_than_its_tensor() -> None:
    content = model([node("Add", ["x", "w"], "y")], {"w": quarters(1, 8)}, (1, 8))
    content.graph.initializer[0].raw_data += b"1234"
    with pytest.raises(ModelError, match=r"weight 'w': its data does not fit its shape|not a valid ONNX model"):
        bnncc.compile(content.SerializeToString())


def test_a_large_stride_means_one_window() -> None:
    check([node("MaxPool", ["x"], "y", kernel_shape=[2, 2], strides=[2**31 - 1, 3])], quarters(1, 4, 5, 6))


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [([1], [2**63 - 1], [2]), ([-1], [-(2**63)], [-1]), ([-3], [-1], [1]), ([7], [0], [-2])],
)
def test_slices(starts: list[int], ends: list[int], steps: list[int]) -> None:
    weights = {"s": np.array(starts), "e": np.array(ends), "a": np.array([-1]), "t": np.array(steps)}
    check([node("Slice", ["x", *weights], "y")], quarters(2, 3, 5), weights)
    if steps == [1]:
        check([node("Slice", ["x"], "y", starts=starts, ends=ends, axes=[2])], quarters(2, 3, 5), opset=9)


# --- NaN and infinity ---


def with_nan(*shape: int) -> Array:
    x = quarters(*shape)
    return np.where(RNG.random(shape) < 0.2, RNG.choice(np.array([NAN, NAN, INF, -INF], np.float32), shape), x)


@pytest.mark.parametrize("target", ["x86", "x86-avx2"])
@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Relu", ["x"], "y")], {}),
        ([node("Clip", ["x", "a", "b"], "y")], {"a": np.float32(-1), "b": np.float32(2)}),
        ([node("Clip", ["x", "a", "a"], "y")], {"a": np.float32(0.25)}),
        ([node("Max", ["x", "a"], "y")], {"a": np.float32(0.5)}),
        ([node("Min", ["a", "x"], "y")], {"a": np.float32(0.5)}),
        ([node("Max", ["x", "w"], "y")], {"w": quarters(6, 1)}),
        ([node("Neg", ["x"], "a"), node("Mul", ["x", "w"], "b"), node("Max", ["a", "b"], "y")], {"w": quarters(6, 1)}),
        ([node("Neg", ["x"], "a"), node("Add", ["x", "w"], "b"), node("Min", ["b", "a"], "y")], {"w": np.float32(1)}),
        ([node("Sign", ["x"], "y")], {}),
        ([node("Sub", ["x", "x"], "y")], {}),
        ([node("Max", ["x", "x"], "a"), node("Sub", ["x", "a"], "y")], {}),
        ([node("Mul", ["x", "a"], "y")], {"a": np.float32(0)}),
        ([node("Div", ["a", "x"], "y")], {"a": np.float32(0)}),
        ([node("HardSigmoid", ["x"], "y")], {}),
        ([node("PRelu", ["x", "a"], "y")], {"a": np.array([0.5], np.float32)}),
    ],
)
def test_nan(nodes: Any, weights: dict[str, Any], target: str) -> None:
    check(nodes, with_nan(2, 6, 9), weights, target=target, rtol=1e-6)


def test_nan_in_real_numbers_of_64_bits() -> None:
    for op, weights in (("Relu", {}), ("Max", {"w": np.array([[0.5]])}), ("Mul", {"w": np.array(0.0)})):
        check([node(op, ["x", *weights], "y")], with_nan(4, 5).astype(np.float64), weights)


@pytest.mark.parametrize("op", ["MaxPool", "GlobalMaxPool"])
def test_a_maximum_passes_over_nan(op: str) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
    for first in range(4):
        x = np.roll(np.array([5, NAN, 1, 0], np.float32), first).reshape(1, 1, 2, 2)
        content = model([node(op, ["x"], "y", **attributes)], {}, x.shape)
        assert bnncc.load(bnncc.compile(content.SerializeToString()))(x) == 5


def test_an_infinite_scale_before_a_sign_is_kept() -> None:
    """0 * inf is NaN, whose sign is -1; the sign of 0 is +1."""
    nodes = [node("Mul", ["x", "a"], "m"), binary("Binarize", ["m"], "y")]
    check(nodes, np.array([[0, 1, -1]], np.float32), {"a": np.float32(INF)})
