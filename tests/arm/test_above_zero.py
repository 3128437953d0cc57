"""x > 0 on ARM, executed: 0 behind a ReLU gives 0, whatever computes the bits.

It is compiled as x >= the least positive float, which is denormal, and 32-bit ARM's vectors take denormals for 0.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnncc
from bnncc.bitpack import packed_bytes
from tests.arm.emulate import needs_qemu, run
from tests.onnxmodels import binary, model, node

SHAPE = (1, 24, 5, 5)


def bits_as_floats() -> onnx.ModelProto:
    """Bits that stay real numbers."""
    return model([node("Relu", ["x"], "r"), binary("Binarize", ["r"], "y", unipolar=1)], {}, SHAPE)


def convolution(groups: int) -> onnx.ModelProto:
    """Bits that are packed: behind the ReLU, or on their own where the channels of groups do not fill bytes."""
    channels = SHAPE[1] // groups
    weights = np.random.default_rng(0).integers(0, 256, (24, 9, packed_bytes(channels)), np.uint8)
    if channels % 8:
        weights &= (1 << channels % 8) - 1
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    nodes = [
        node("Relu", ["x"], "r"),
        binary("Binarize", ["r"], "b", unipolar=1),
        binary("BinaryConv", ["b", "w"], "y", group=groups, channels=channels, **window),
    ]
    return model(nodes, {"w": weights}, SHAPE)


@pytest.mark.parametrize("target", ["arm", "armv7"])
@pytest.mark.parametrize("made", [bits_as_floats(), convolution(1), convolution(6)], ids=["floats", "fused", "groups"])
def test_zero_is_not_above_zero(made: onnx.ModelProto, target: str, tmp_path: Path) -> None:
    needs_qemu(target)
    path = tmp_path / "net.onnx"
    path.write_bytes(made.SerializeToString())
    x = np.random.default_rng(1).integers(-2, 3, SHAPE).astype(np.float32)
    (found,) = run(path, tmp_path, x, target=target)
    expected = bnncc.load(bnncc.compile(path)).run(x)["y"]
    assert np.array_equal(found, expected)
