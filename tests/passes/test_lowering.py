"""ONNX -> import -> the passes, run by TVM's own lowering, gives the operators' numpy meaning: binary parts with ==."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.frontend.importer import from_onnx
from bnncc.ops import binarize, binary_conv, binary_gemm
from bnncc.passes.lower_to_xnor import LowerToXnor
from bnncc.passes.to_nhwc import ToNHWC
from tests.irtest import evaluate, run, transform, whole
from tests.onnxmodels import binary, model, node

Numbers = dict[str, Any]


@st.composite
def convolutions(draw: st.DrawFn) -> Numbers:
    """The numbers of a BinaryConv on an image, each within what the operator allows."""
    group = draw(st.sampled_from([1, 1, 2, 3]))
    pair = st.lists(st.integers(1, 3), min_size=2, max_size=2)
    return {
        "channels": draw(st.integers(1, 20)),
        "filters": group * draw(st.integers(1, 3)),
        "kernel_shape": draw(pair),
        "strides": draw(pair),
        "dilations": draw(st.lists(st.integers(1, 2), min_size=2, max_size=2)),
        "pads": draw(st.lists(st.integers(0, 3), min_size=4, max_size=4)),
        "group": group,
        "pad_value": draw(st.sampled_from([-1.0, 0.0, 1.0])),
    }


@settings(max_examples=40, deadline=None)
@given(
    numbers=convolutions(),
    size=st.tuples(st.integers(1, 2), st.integers(2, 7), st.integers(2, 7)),
    unipolar=st.booleans(),
    word_bytes=st.sampled_from([1, 8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_binary_conv(numbers: Numbers, size: tuple[int, int, int], unipolar: bool, word_bytes: int, seed: int) -> None:
    filters = numbers.pop("filters")
    shape = binary_conv.output_shape(
        size[1:], numbers["kernel_shape"], numbers["strides"], numbers["pads"], numbers["dilations"]
    )
    assume(min(shape) >= 1)
    rng = np.random.default_rng(seed)
    taps = int(np.prod(numbers["kernel_shape"]))
    w = bitpack.pack(rng.integers(0, 2, (filters, taps, numbers["channels"])).astype(bool))
    x = rng.integers(-2, 3, (size[0], numbers["channels"] * numbers["group"], *size[1:])).astype(np.float32)
    signs = binary("Binarize", ["x"], "s", unipolar=int(unipolar))
    module = from_onnx(model([signs, binary("BinaryConv", ["s", "w"], "y", **numbers)], {"w": w}, x.shape)).module
    _, lower = run(module, ToNHWC(), LowerToXnor(word_bytes=word_bytes))
    assert (lower.rewrites, lower.refused) == (1, ())
    want = binary_conv.meaning(binarize.meaning(x, unipolar=unipolar), w, **numbers)
    (got,) = evaluate(lower.module, x)
    assert (got == want).all()


def test_binary_conv_of_a_sequence() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 12, 9)).astype(np.float32)
    w = bitpack.pack(rng.integers(0, 2, (5, 3, 12)).astype(bool))
    numbers: Numbers = {
        "channels": 12,
        "kernel_shape": [3],
        "strides": [2],
        "pads": [1, 0],
        "dilations": [1],
        "group": 1,
    }
    nodes = [binary("Binarize", ["x"], "s"), binary("BinaryConv", ["s", "w"], "y", **numbers)]
    module = from_onnx(model(nodes, {"w": w}, x.shape)).module
    lowered = transform(module, ToNHWC(), LowerToXnor(word_bytes=8))
    assert "binary_conv2d" not in lowered.script()
    (got,) = evaluate(lowered, x)
    assert (got == binary_conv.meaning(binarize.meaning(x), w, **numbers)).all()


@pytest.mark.parametrize("flatten", [False, True])
def test_binary_gemm(flatten: bool) -> None:
    """After a flattening it becomes a convolution over the whole image."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 5, 2, 4) if flatten else (3, 40)).astype(np.float32)
    w = bitpack.pack(rng.integers(0, 2, (6, 40)).astype(bool))
    nodes = [binary("Binarize", ["f" if flatten else "x"], "s"), binary("BinaryGemm", ["s", "w"], "y", channels=40)]
    if flatten:
        nodes = [node("Relu", ["x"], "r"), node("Flatten", ["r"], "f"), *nodes]
    module = from_onnx(model(nodes, {"w": w}, x.shape, rank=2)).module
    module = transform(module, *whole("x86-avx2"))
    flat = np.maximum(x, 0).reshape(3, 40) if flatten else x
    (got,) = evaluate(module, x)
    assert (got == binary_gemm.meaning(binarize.meaning(flat), w, channels=40)).all()
    assert ("R.shape([2, 4])" in module.script()) == flatten


@pytest.mark.parametrize("pad_value", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize(("pooled", "group"), [(False, 1), (True, 1), (True, 2)])
def test_two_layers_stay_bits(pooled: bool, group: int, pad_value: float) -> None:
    """conv -> (max-pool) -> batch norm with gammas of both signs and zero -> sign -> conv: no float in between."""
    rng = np.random.default_rng(3)
    x = rng.integers(-3, 4, (1, 20, 8, 8)).astype(np.float32)
    channels = 16
    gamma = rng.standard_normal(channels).astype(np.float32)
    gamma[:3] = 0, -0.0, -1
    # Halves and whole numbers, so that the sign often reads exactly 0.
    norm = {"gamma": gamma, "beta": rng.integers(-2, 3, channels).astype(np.float32)}
    norm |= {"mean": rng.integers(-5, 5, channels).astype(np.float32), "var": np.full(channels, 0.75, np.float32)}
    w1 = bitpack.pack(rng.integers(0, 2, (channels, 9, 20)).astype(bool))
    w2 = bitpack.pack(rng.integers(0, 2, (6, 9, channels // group)).astype(bool))
    numbers = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "w1"], "a", channels=20, pad_value=0.0, **numbers),
        node("MaxPool", ["a"], "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["p" if pooled else "a", *norm], "b", epsilon=0.25),
        binary("Binarize", ["b"], "t"),
        binary("BinaryConv", ["t", "w2"], "y", channels=channels // group, group=group, pad_value=pad_value, **numbers),
    ]
    weights: dict[str, Any] = {"w1": w1, "w2": w2, **norm}
    imported = from_onnx(model(nodes if pooled else [*nodes[:2], *nodes[3:]], weights, x.shape)).module
    module = transform(imported, *whole("x86-avx512"))
    (want,) = evaluate(imported, x)
    (got,) = evaluate(module, x)
    assert (got == want).all()
    text = module.script()
    assert text.count("R.bnncc.threshold") == 1
    assert "R.bnncc.binarize" not in text
    assert ("R.bnncc.or_pool2d" in text) == pooled


@pytest.mark.parametrize("unipolar", [False, True])
def test_pool_between_sign_and_convolution(unipolar: bool) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 12, 9, 7)).astype(np.float32)
    w = bitpack.pack(rng.integers(0, 2, (4, 9, 12)).astype(bool))
    numbers = {"channels": 12, "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 0, 0, 1], "dilations": [1, 1]}
    nodes = [
        binary("Binarize", ["x"], "s", unipolar=int(unipolar), threshold=0.25),
        node("MaxPool", ["s"], "p", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 0, 1], ceil_mode=1),
        binary("BinaryConv", ["p", "w"], "y", **numbers),
    ]
    imported = from_onnx(model(nodes, {"w": w}, x.shape)).module
    lowered = transform(imported, *whole("x86-avx2"))
    assert "R.bnncc.or_pool2d" in lowered.script()
    assert (evaluate(lowered, x)[0] == evaluate(imported, x)[0]).all()


@pytest.mark.parametrize("between", ["Neg", "Clip", "LeakyRelu"])
def test_what_rises_or_falls_between_pool_and_sign(between: str) -> None:
    """The sign goes in front of the pool, where it becomes a threshold."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 16, 8, 8)).astype(np.float32)
    w = bitpack.pack(rng.integers(0, 2, (16, 9, 16)).astype(bool))
    numbers = {"channels": 16, "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    limits: dict[str, Any] = {"least": np.float32(-2).reshape(()), "most": np.float32(2).reshape(())}
    weights = {"w": w} | (limits if between == "Clip" else {})
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "w"], "a", **numbers),
        node("MaxPool", ["a"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node(between, ["p", *(limits if between == "Clip" else ())], "b"),
        binary("Binarize", ["b"], "t"),
        binary("BinaryConv", ["t", "w"], "y", **numbers),
    ]
    imported = from_onnx(model(nodes, weights, x.shape)).module
    lowered = transform(imported, *whole("x86-avx2"))
    text = lowered.script()
    assert ("R.bnncc.or_pool2d" in text, text.count("R.bnncc.threshold"), "R.bnncc.binarize" in text) == (
        True,
        1,
        False,
    )
    assert (evaluate(lowered, x)[0] == evaluate(imported, x)[0]).all()


def test_two_convolutions_share_their_bits() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 16, 6, 6)).astype(np.float32)
    w = bitpack.pack(rng.integers(0, 2, (8, 9, 16)).astype(bool))
    numbers = {"channels": 16, "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "w"], "a", **numbers),
        binary("BinaryConv", ["s", "v"], "b", **numbers),
        node("Add", ["a", "b"], "y"),
    ]
    imported = from_onnx(model(nodes, {"w": w, "v": 255 - w}, x.shape)).module
    lowered = transform(imported, ToNHWC(), LowerToXnor(word_bytes=8))
    assert (lowered.script().count("R.bnncc.pack("), lowered.script().count("R.bnncc.pad_bits(")) == (1, 1)
    assert (evaluate(lowered, x)[0] == 0).all()
