"""A compiled network gives onnxruntime's numbers bit for bit where all sums are exact: floats after a binary
convolution included, and signs of values that are exactly 0."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import bnncc
from bnncc import bitpack
from tests.onnxmodels import Array, binary, model, node

CHANNELS = 64
CONV = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "channels": CHANNELS}


def assert_equal(content: onnx.ModelProto, x: Array) -> None:
    session = onnxruntime.InferenceSession(content.SerializeToString())
    names = [value.name for value in content.graph.output]
    got: Any = bnncc.load(bnncc.compile(content.SerializeToString(), target="native"))(x)
    for name, want in zip(names, session.run(names, {"x": x}), strict=True):
        np.testing.assert_array_equal(got[name] if len(names) > 1 else got, want)


@pytest.mark.parametrize("tail", ["Relu", "LeakyRelu", "PRelu", "Neg", "Abs"])
def test_ties_after_batch_norm_that_others_read(tail: str) -> None:
    """Accumulators equal to their channel's mean, with beta 0: the sum of product and bias is 0, and its sign +1.

    Fused into one rounding, it would be the product's rounding error. The floats have another reader, so that no
    integer threshold takes the decision.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, CHANNELS, 10, 10)).astype(np.float32)
    norm = {
        "gamma": rng.uniform(-2, 2, CHANNELS).astype(np.float32),
        "beta": np.zeros(CHANNELS, np.float32),
        "mean": (2 * rng.integers(-12, 12, CHANNELS)).astype(np.float32),
        "var": rng.uniform(10, 900, CHANNELS).astype(np.float32),
    }
    weights = {name: bitpack.pack(rng.integers(0, 2, (CHANNELS, 1, CHANNELS)).astype(bool)) for name in ("w", "v")}
    slope = {"slope": rng.uniform(-1, 1, (CHANNELS, 1, 1)).astype(np.float32)} if tail == "PRelu" else {}
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "w"], "a", **CONV),
        node("BatchNormalization", ["a", *norm], "b"),
        node(tail, ["b", *slope], "z"),
        binary("Binarize", ["b"], "t"),
        binary("BinaryConv", ["t", "v"], "y", **CONV),
    ]
    assert_equal(model(nodes, {**weights, **norm, **slope}, x.shape, outputs=("y", "z")), x)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("constant", [(), (8, 1, 1)])
def test_constant_first(op: str, constant: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 8, 5, 4)).astype(np.float32)
    c = np.random.default_rng(1).standard_normal(constant).astype(np.float32)
    assert_equal(model([node(op, ["c", "x"], "y")], {"c": np.asarray(c)}, x.shape), x)


@pytest.mark.parametrize("shape", [(8,), (2, 8, 8), (1, 4, 8, 8), (1, 2, 8, 8, 8)])
def test_slopes_of_what_is_no_image(shape: tuple[int, ...]) -> None:
    """Slopes along an axis as long as the last one, of a tensor that no image operator gave."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    axes = [0, 2, 1, *range(3, len(shape))] if len(shape) > 3 else range(len(shape))
    slope = np.linspace(-1, 1, 8).astype(np.float32).reshape(8, *[1] * max(len(shape) - 2, 0))
    nodes = [node("Transpose", ["x"], "t", perm=list(axes)), node("PRelu", ["t", "slope"], "y")]
    assert_equal(model(nodes, {"slope": slope}, shape), x)


def test_groups_that_do_not_fill_bytes() -> None:
    """A depthwise and a grouped layer, four channels a group: their bits cannot be packed from registers."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 9, 7)).astype(np.float32)
    weights = {
        "w": bitpack.pack(rng.integers(0, 2, (16, 1, 1)).astype(bool)),
        "v": bitpack.pack(rng.integers(0, 2, (24, 1, 4)).astype(bool)),
    }
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "w"], "a", **CONV | {"channels": 1, "group": 16}),
        node("Add", ["a", "x"], "b"),
        binary("Binarize", ["b"], "t"),
        binary("BinaryConv", ["t", "v"], "y", **CONV | {"channels": 4, "group": 4, "pads": [1] * 4, "pad_value": -1.0}),
    ]
    assert_equal(model(nodes, weights, x.shape, outputs=("b", "y")), x)
