"""Small networks that have everything which a mutation breaks."""

from typing import Any

import numpy as np

from bnncc import bitpack
from tests.onnxmodels import binary, model, node

ONES = {"strides": [1, 1], "dilations": [1, 1]}


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return bitpack.pack(rng.integers(0, 2, shape).astype(bool))


def norm(rng: np.random.Generator, name: str, channels: int, weights: dict[str, Any]) -> list[str]:
    values = {
        "gamma": rng.choice([-1.5, -0.75, 0.5, 1.25], channels),
        "beta": rng.standard_normal(channels),
        "mean": 2 * rng.standard_normal(channels),
        "var": rng.uniform(0.1, 0.5, channels),
    }
    weights |= {f"{name}_{key}": value.astype(np.float32) for key, value in values.items()}
    return [f"{name}_{key}" for key in values]


def straight() -> bytes:
    """Binary layers in a row: border on one side more than on the other, norm, pool, scales, groups with strides."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "w1": signs(rng, 16, 9, 8),
        "w2": signs(rng, 16, 9, 16),
        "w3": signs(rng, 16, 9, 8),
        "scale": rng.choice([-2.0, -1.0, 1.0, 2.0], (16, 1, 1)).astype(np.float32),
    }
    strided = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1], "dilations": [1, 1], "group": 2}
    nodes = [
        binary("Binarize", ["x"], "s1"),
        binary("BinaryConv", ["s1", "w1"], "conv1", channels=8, kernel_shape=[3, 3], pads=[1, 2, 0, 1], **ONES),
        node("BatchNormalization", ["conv1", *norm(rng, "n1", 16, weights)], "norm1", epsilon=2.0),
        binary("Binarize", ["norm1"], "s2"),
        binary("BinaryConv", ["s2", "w2"], "conv2", channels=16, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **ONES),
        node("MaxPool", ["conv2"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Mul", ["pool", "scale"], "scaled"),
        binary("Binarize", ["scaled"], "s3"),
        binary("BinaryConv", ["s3", "w3"], "y", channels=8, **strided),
    ]
    content: bytes = model(nodes, weights, (1, 8, 9, 8)).SerializeToString()
    return content


def dense() -> bytes:
    """A dense layer behind a flattened image, whose scale is negative."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "w1": signs(rng, 8, 1, 8),
        "w2": signs(rng, 10, 8 * 72),
        "negative": np.full((8, 1, 1), -2.0, np.float32),
    }
    nodes = [
        binary("Binarize", ["x"], "s1"),
        binary("BinaryConv", ["s1", "w1"], "conv1", channels=8, kernel_shape=[1, 1], pads=[0, 0, 0, 0], **ONES),
        node("Mul", ["conv1", "negative"], "falling"),
        binary("Binarize", ["falling"], "s2"),
        node("Flatten", ["s2"], "flat"),
        binary("BinaryGemm", ["flat", "w2"], "y", channels=8 * 72),
    ]
    content: bytes = model(nodes, weights, (1, 8, 9, 8), rank=2).SerializeToString()
    return content


def branches() -> bytes:
    """A float stem, PReLU, a residual, {0, 1}, a concatenation."""
    rng = np.random.default_rng(1)
    weights: dict[str, Any] = {
        "w0": rng.standard_normal((16, 8, 3, 3)).astype(np.float32),
        "w1": signs(rng, 16, 9, 16),
        "w2": signs(rng, 16, 9, 16),
        "w3": signs(rng, 8, 1, 32),
        "slope": rng.uniform(0.1, 2.0, (16, 1, 1)).astype(np.float32),
        "bias": rng.standard_normal((16, 1, 1)).astype(np.float32),
    }
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], **ONES}
    nodes = [
        node("Conv", ["x", "w0"], "stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        binary("Binarize", ["stem"], "s1"),
        binary("BinaryConv", ["s1", "w1"], "conv1", channels=16, **same),
        node("PRelu", ["conv1", "slope"], "prelu"),
        node("Add", ["prelu", "bias"], "shifted"),
        node("Add", ["shifted", "stem"], "residual"),
        binary("Binarize", ["residual"], "bits", unipolar=1, threshold=0.5),
        binary("BinaryConv", ["bits", "w2"], "conv2", channels=16, **same),
        node("Concat", ["conv2", "residual"], "both", axis=1),
        binary("Binarize", ["both"], "s3"),
        binary("BinaryConv", ["s3", "w3"], "y", channels=32, kernel_shape=[1, 1], pads=[0, 0, 0, 0], **ONES),
    ]
    content: bytes = model(nodes, weights, (1, 8, 9, 8)).SerializeToString()
    return content


NETWORKS = {"straight": straight, "dense": dense, "branches": branches}
