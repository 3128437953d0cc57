"""Bits that are 1 strictly above a limit, on the machine that takes the float after 0 for 0."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bnncc import bitpack
from tests import networks
from tests.arm.emulate import needs_qemu, run
from tests.onnxmodels import binary, model, node

X = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 0.0, np.inf], np.float32)
SHAPE = (1, 12, 4, 4)
WINDOW = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
RANDOM = np.random.default_rng(0)


def bits_as_floats(threshold: float) -> onnx.ModelProto:
    return model([node("Relu", ["x"], "r"), binary("Binarize", ["r"], "y", unipolar=1, threshold=threshold)], {}, SHAPE)


def conv(groups: int, *before: onnx.NodeProto) -> onnx.ModelProto:
    weights = {"w": bitpack.pack(RANDOM.integers(0, 2, (12, 9, 12 // groups)).astype(bool))}
    bits = binary("Binarize", [before[-1].output[0]], "b", unipolar=1)
    layer = binary("BinaryConv", ["b", "w"], "y", channels=12 // groups, group=groups, **WINDOW)
    return model([*before, bits, layer], weights, SHAPE)


RELU = node("Relu", ["x"], "r")
MODELS = {
    "bits as floats": bits_as_floats(0.0),
    "bits above one": bits_as_floats(1.0),
    "bits above every number": bits_as_floats(float(np.finfo(np.float32).max)),
    "one group": conv(1, RELU),
    "groups that are no bytes": conv(3, RELU),
    "of the input itself": conv(4, node("Identity", ["x"], "r")),
    "behind what TVM computes": conv(1, RELU, node("Sqrt", ["r"], "q")),
    "behind a pool": conv(2, RELU, node("MaxPool", ["r"], "q", kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
}


@pytest.mark.parametrize("target", ["armv7", "arm"])
@pytest.mark.parametrize("name", MODELS)
def test_zero_is_not_above_zero(name: str, target: str, tmp_path: Path) -> None:
    needs_qemu(target)
    x = RANDOM.choice(X, SHAPE).astype(np.float32)
    expected = networks.run(MODELS[name], {"x": x})["y"]
    path = tmp_path / "bits.onnx"
    path.write_bytes(MODELS[name].SerializeToString())
    (found,) = run(path, tmp_path, x, target=target)
    np.testing.assert_array_equal(found, expected)
