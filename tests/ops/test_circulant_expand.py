"""CirculantExpand: rotations, numpy == the body in onnxruntime == torch's operator, its gradient, and compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

import bnncc
from bnncc import bitpack, targets
from bnncc.nn import Sign, operators
from bnncc.ops import binary_conv, circulant_expand
from bnncc.ops.circulant_expand import MIXINGS, ORIENTATIONS, Mixing, compress, expand, rotate, slices
from bnncc.runtime import cpu
from bnncc.runtime.errors import ModelError
from tests.arm.emulate import needs_qemu
from tests.arm.emulate import run as emulated
from tests.frontend.exporting import assert_file_equals_module, run, session
from tests.onnxmodels import binary, model, node

Array = npt.NDArray[Any]

# Clockwise turns of 1 ... 9 by multiples of 45 degrees, written down by hand.
TURNED = ("123456789", "412753896", "741852963", "874951632", "987654321", "698357214", "369258147", "236159478")

modes = pytest.mark.parametrize("mixing", MIXINGS)
orders = pytest.mark.parametrize("orientations", ORIENTATIONS)


def test_the_maps_are_those_of_the_paper_and_form_a_group() -> None:
    digits = np.arange(1, 10)
    once = digits
    for eighths, expected in enumerate(TURNED):
        assert "".join(map(str, rotate(digits, eighths))) == expected
        np.testing.assert_array_equal(once, rotate(digits, eighths))
        once = rotate(once, 1)
    np.testing.assert_array_equal(once, digits)
    np.testing.assert_array_equal(rotate(np.array([5]), 3), [5])
    with pytest.raises(ValueError, match="4 taps cannot be turned"):
        rotate(np.arange(4), 1)


def test_sign_commutes_with_rotation() -> None:
    w = np.random.default_rng(0).standard_normal((4, 9))
    w[0, 0] = 0.0
    for eighths in range(8):
        np.testing.assert_array_equal(rotate(w, eighths) >= 0, rotate(w >= 0, eighths))


def weight(filters: int, channels: int, orientations: int, mixing: str, taps: int = 9, seed: int = 0) -> Array:
    """Signs of base filters [O, slices * C, kh, kw]."""
    side = 3 if taps == 9 else 1
    shape = (filters, slices(orientations, mixing) * channels, side, side)
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), shape)


def packed(signs: Array) -> npt.NDArray[np.uint8]:
    """Signs [O, C, kh, kw] -> uint8 [O, T, bytes]."""
    return bitpack.pack(np.moveaxis(signs.reshape(*signs.shape[:2], -1), 1, 2) > 0)


def test_one_orientation_after_another() -> None:
    """y[k * O + o, :, l * C + c], element by element as the formula says it."""
    m, o, c = 8, 2, 3
    for mixing in MIXINGS:
        count = slices(m, mixing)
        base = np.arange(o * 9 * count * c).reshape(o, 9, count * c)
        y = expand(base, m, mixing)
        for k, j, n, i in np.ndindex(m, o, m, c):
            stored = base[j, :, (n - k) % count * c + i]
            np.testing.assert_array_equal(y[k * o + j, :, n * c + i], rotate(stored, k))


@st.composite
def filters(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    """Signs of base filters, and the attributes."""
    orientations, mixing = draw(st.sampled_from(ORIENTATIONS)), draw(st.sampled_from(MIXINGS))
    channels, taps = draw(st.integers(1, 20)), draw(st.sampled_from([1, 9]))
    signs = weight(draw(st.integers(1, 4)), channels, orientations, mixing, taps, draw(st.integers(0, 2**32 - 1)))
    return signs, {"channels": channels, "orientations": orientations, "mixing": mixing}


@settings(max_examples=40, deadline=None)
@given(filters())
def test_numpy_onnxruntime_and_torch_agree(case: tuple[Array, dict[str, Any]]) -> None:
    signs, attributes = case
    w = packed(signs)
    expected = circulant_expand.meaning(w, **attributes)
    graph = helper.make_graph(
        [binary("CirculantExpand", ["w"], "y", **attributes)],
        "expand",
        [helper.make_tensor_value_info("w", TensorProto.UINT8, w.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, expected.shape)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("bnncc", 1)]
    file = helper.make_model(graph, opset_imports=opsets, functions=[circulant_expand.function()], ir_version=9)
    onnx.checker.check_model(file, full_check=True)
    (found,) = session(file).run(None, {"w": w})
    np.testing.assert_array_equal(found, expected)
    turned = operators.circulant_expand(torch.from_numpy(signs), attributes["orientations"], attributes["mixing"])
    np.testing.assert_array_equal(packed(turned.numpy()), expected)


def test_schema_infers_the_shape() -> None:
    onnx.defs.register_schema(circulant_expand.schema())
    try:
        info = helper.make_tensor_value_info("w", TensorProto.UINT8, (3, 9, 2))
        unknown = helper.make_empty_tensor_value_info("y")
        shared = binary("CirculantExpand", ["w"], "y", channels=9, orientations=8, mixing="shared")
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("bnncc", 1)]
        graph = helper.make_graph([shared], "expand", [info], [unknown])
        inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets), strict_mode=True)
    finally:
        onnx.defs.deregister_schema("CirculantExpand", 1, "bnncc")
    (output,) = inferred.graph.output
    assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [24, 9, 9]
    assert output.type.tensor_type.elem_type == TensorProto.UINT8


@modes
@orders
def test_gradient_is_the_sum_of_gradients_turned_back(orientations: int, mixing: Mixing) -> None:
    """By finite differences, and as the method states it: each copy's gradient turned back, and summed."""
    base = torch.from_numpy(weight(2, 2, orientations, mixing)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: operators.circulant_expand(w, orientations, mixing), base)
    arriving = torch.randn(orientations * 2, orientations * 2, 3, 3, dtype=torch.float64)
    (found,) = torch.autograd.grad((operators.circulant_expand(base, orientations, mixing) * arriving).sum(), base)
    count, step = slices(orientations, mixing), 8 // orientations
    copies = arriving.numpy().reshape(orientations, 2, orientations, 2, 9)
    expected = np.zeros((2, count, 2, 9))
    for k, n in np.ndindex(orientations, orientations):
        expected[:, (n - k) % count] += rotate(copies[k, :, n], -k * step)
    np.testing.assert_allclose(found.numpy().reshape(expected.shape), expected, rtol=1e-12)


@modes
def test_vmap_over_filters(mixing: Mixing) -> None:
    w = torch.stack([torch.from_numpy(weight(2, 3, 4, mixing, seed=seed)) for seed in range(3)], dim=1)
    found = torch.func.vmap(lambda one: operators.circulant_expand(one, 4, mixing), in_dims=1)(w)
    expected = torch.stack([operators.circulant_expand(w[:, i], 4, mixing) for i in range(3)])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_torch_refuses_other_kernels_and_orientations() -> None:
    for shape, orientations in (((2, 2, 5, 5), 4), ((2, 2, 1, 3), 4), ((2, 2, 3, 3), 6)):
        with pytest.raises(ValueError, match="allowed"):
            operators.circulant_expand(torch.ones(shape), orientations, "shared")


class Circulant(nn.Module):
    """Two circulant convolutions, the first with a scale; a third reads the second's weight."""

    def __init__(self, orientations: int, mixing: Mixing, channels: int = 3) -> None:
        super().__init__()
        self.orientations, self.mixing = orientations, mixing
        count = slices(orientations, mixing)
        self.first = nn.Parameter(torch.randn(channels, count * channels, 3, 3))
        self.second = nn.Parameter(torch.randn(channels, count * channels, 3, 3))
        self.norm = nn.BatchNorm2d(orientations * channels)
        with torch.no_grad():
            self.norm.weight.uniform_(-1, 1)
            self.norm.bias.uniform_(-3, 3)

    def forward(self, x: Tensor) -> Tensor:
        def conv(x: Tensor, w: Tensor) -> Tensor:
            expanded = operators.circulant_expand(w, self.orientations, self.mixing)
            return operators.binary_conv(Sign()(x), expanded, [1, 1], [1, 1, 1, 1], [1, 1], 1, 0.0)

        alpha = self.first.abs().mean((1, 2, 3), keepdim=True)
        y = self.norm(conv(x, alpha * Sign()(self.first)))
        second = Sign()(self.second)
        return conv(y, second) + conv(-y, second)


@modes
@orders
def test_torch_onnxruntime_and_artifact_agree(orientations: int, mixing: Mixing, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Circulant(orientations, mixing).eval()
    x = torch.randn(1, 3 * orientations, 6, 5)
    path = tmp_path / "circulant.onnx"
    graph = assert_file_equals_module(module, x, path=path, binary=3)
    stored = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.UINT8]
    size = bitpack.packed_bytes(3 * slices(orientations, mixing))
    assert [list(tensor.dims) for tensor in stored] == [[3, 9, size]] * 2, "base filters, each stored once"
    (expected,) = run(path, x.numpy())
    (found,) = bnncc.load(bnncc.compile(path)).run(x.numpy()).values()
    np.testing.assert_array_equal(found, expected)


def test_a_weight_that_others_read_too_is_stored_expanded(tmp_path: Path) -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 2, 3, 3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            w = operators.circulant_expand(Sign()(self.weight), 4, "shared")
            return operators.binary_conv(Sign()(x), w, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0.0), w.sum() * x

    graph = assert_file_equals_module(Read(), torch.randn(1, 8, 4, 4), path=tmp_path / "read.onnx", binary=1)
    assert "CirculantExpand" not in {node.op_type for node in graph.node}


def circulant_file(w: Array, **attributes: Any) -> bytes:
    """x [1, 4, 5, 5] -> BinaryConv with circulant weights."""
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("CirculantExpand", ["w"], "e", **attributes),
        binary(
            "BinaryConv",
            ["s", "e"],
            "y",
            channels=4,
            kernel_shape=[3, 3],
            strides=[1, 1],
            pads=[1] * 4,
            dilations=[1, 1],
        ),
    ]
    content: bytes = model(nodes, {"w": w}, (1, 4, 5, 5)).SerializeToString()
    return content


def test_file_by_hand() -> None:
    w = packed(weight(2, 1, 4, "oriented"))
    attributes: dict[str, Any] = {"channels": 1, "orientations": 4, "mixing": "oriented"}
    x = np.random.default_rng(3).standard_normal((1, 4, 5, 5)).astype(np.float32)
    content = circulant_file(w, **attributes)
    expected = binary_conv.meaning(
        np.where(x >= 0, 1, -1).astype(np.float32),
        circulant_expand.meaning(w, **attributes),
        channels=4,
        kernel_shape=[3, 3],
        strides=[1, 1],
        pads=[1] * 4,
        dilations=[1, 1],
    )
    (runtime,) = session(onnx.load_from_string(content)).run(None, {"x": x})
    (found,) = bnncc.load(bnncc.compile(content)).run(x).values()
    np.testing.assert_array_equal(runtime, expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"orientations": 6}, "orientations is 6, allowed: 4, 8"),
        ({"mixing": "both"}, "mixing is 'both', allowed: 'shared', 'oriented'"),
        ({"channels": 0}, "packed weight is"),
        ({"channels": 9}, "packed weight is"),
        ({"w": np.zeros((2, 4, 1), np.uint8)}, "base filters have 4 taps; allowed: 9"),
        ({"w": np.full((2, 9, 1), 255, np.uint8)}, "bits set past"),
    ],
)
def test_files_that_are_refused(change: dict[str, Any], said: str) -> None:
    attributes: dict[str, Any] = {"channels": 1, "orientations": 4, "mixing": "shared", "w": np.zeros((2, 9, 1), "u1")}
    with pytest.raises(ModelError, match=said):
        bnncc.compile(circulant_file(**(attributes | change)))


def test_base_filters_are_found_in_expanded_weights() -> None:
    rng = np.random.default_rng(5)
    for orientations in ORIENTATIONS:
        for mixing in MIXINGS:
            bits = rng.integers(0, 2, (3, 9, slices(orientations, mixing) * 5)).astype(bool)
            found = compress(expand(bits, orientations, mixing))
            assert found is not None
            assert found[1:] == (orientations, mixing)
            np.testing.assert_array_equal(found.bits, bits)
            changed = expand(bits, orientations, mixing).copy()
            changed[-1, -1, -1] ^= True
            assert compress(changed) is None
    assert compress(rng.integers(0, 2, (16, 4, 16)).astype(bool)) is None


def two_layers(orientations: int, mixing: str, *, pad_value: float, unipolar: int, filters: int = 16) -> bytes:
    """Two circulant convolutions with thresholds between, and the scale of the second, on 10 x 7 pixels."""
    width, count = orientations * filters, slices(orientations, mixing)
    window = {"channels": width, "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1]}
    attributes: dict[str, Any] = {"channels": filters, "orientations": orientations, "mixing": mixing}
    rng = np.random.default_rng(11)
    weights = {
        name: bitpack.pack(rng.integers(0, 2, (filters, 9, count * filters)).astype(bool)) for name in ("v", "w")
    }
    scale = {name: rng.uniform(-2, 2, (1, width, 1, 1)).astype(np.float32) for name in ("a", "b", "c")}
    nodes = [
        binary("Binarize", ["x"], "s", unipolar=unipolar),
        binary("CirculantExpand", ["v"], "ve", **attributes),
        binary("BinaryConv", ["s", "ve"], "y0", pad_value=pad_value, **window),
        node("Mul", ["y0", "a"], "y1"),
        node("Add", ["y1", "b"], "y2"),
        binary("Binarize", ["y2"], "t"),
        binary("CirculantExpand", ["w"], "we", **attributes),
        binary("BinaryConv", ["t", "we"], "z0", pad_value=pad_value, **window),
        node("Mul", ["z0", "c"], "y"),
    ]
    content: bytes = model(nodes, weights | scale, (2, width, 10, 7)).SerializeToString()
    return content


def check_two_layers(content: bytes, run: Callable[[Array], Array]) -> None:
    """`run` gives what onnxruntime gives."""
    file = onnx.load_from_string(content)
    x = np.random.default_rng(2).standard_normal([d.dim_value for d in file.graph.input[0].type.tensor_type.shape.dim])
    (expected,) = session(file).run(None, {"x": x.astype(np.float32)})
    np.testing.assert_array_equal(run(x.astype(np.float32)), expected)


@orders
@pytest.mark.parametrize(("pad_value", "unipolar"), [(0.0, 0), (1.0, 0), (-1.0, 0), (0.0, 1)])
def test_shared_filters_become_counts_of_taps(orientations: int, pad_value: float, unipolar: int) -> None:
    content = two_layers(orientations, "shared", pad_value=pad_value, unipolar=unipolar)
    artifact = bnncc.compile(content)
    kinds = [layer.kind for layer in artifact.manifest.layers if layer.binary]
    assert kinds == ["tap_counts", "circulant_sum"] * 2
    counts, total = (layer for layer in artifact.manifest.layers[-3:] if layer.binary)
    assert total.fused[0] == "circulant_expand"
    assert counts.bytes_weights == 16 * 9 * 16 // 8, "one bit for each weight of a base filter"
    check_two_layers(content, lambda x: next(iter(bnncc.load(artifact).run(x).values())))


@orders
def test_oriented_filters_are_stored_once(orientations: int) -> None:
    content = two_layers(orientations, "oriented", pad_value=0.0, unipolar=0, filters=64)
    artifact = bnncc.compile(content, "x86-avx2" if targets.find("x86-avx2").runs_on(cpu.host()) else "native")
    layers = [layer for layer in artifact.manifest.layers if layer.binary]
    assert [layer.kind for layer in layers] == ["oriented_conv2d"] * 2
    assert layers[0].fused[0] == "circulant_expand"
    tables = 4 * (9 * 64 * orientations + 10 + 7)
    thresholds = 4 * 64 * orientations
    weights = 64 * 9 * orientations * 64 // 8
    assert weights + tables <= layers[0].bytes_weights <= weights + tables + 2 * thresholds
    check_two_layers(content, lambda x: next(iter(bnncc.load(artifact).run(x).values())))


def test_what_stays_expanded_says_why() -> None:
    content = two_layers(4, "shared", pad_value=0.0, unipolar=0, filters=12)
    artifact = bnncc.compile(content)
    (record,) = [record for record in artifact.manifest.passes if record.name == "kernel selection"]
    reason = "circulant weights are stored expanded: 12 base filters are no multiple of 8"
    assert record.refused == (f"y0: {reason}", f"z0: {reason}")
    check_two_layers(content, lambda x: next(iter(bnncc.load(artifact).run(x).values())))


@modes
@pytest.mark.parametrize("target", ["arm", "armv7"])
def test_on_arm(mixing: Mixing, target: str, tmp_path: Path) -> None:
    needs_qemu(target)
    path = tmp_path / "circulant.onnx"
    path.write_bytes(two_layers(4, mixing, pad_value=0.0, unipolar=0))
    check_two_layers(path.read_bytes(), lambda x: emulated(path, tmp_path, x, target=target)[0])
