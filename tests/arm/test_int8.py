"""8-bit convolutions on ARM, executed: what x86 computes, bit for bit, whatever each multiplies."""

from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc import compiler, targets
from bnncc.options import InputRange, Options, Quantize
from tests.arm.emulate import needs_qemu, run
from tests.onnxmodels import model, node


def network(path: Path) -> None:
    """A stem with strides and padding, and a convolution of 1x1, both of enough products to become integers."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((24, 3, 7, 7)).astype(np.float32),
        "v": random.standard_normal((100, 24, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w"], "a", kernel_shape=[7, 7], strides=[2, 2], pads=[3, 3, 3, 3]),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "v"], "y", kernel_shape=[1, 1]),
    ]
    path.write_bytes(model(nodes, weights, (1, 3, 21, 19)).SerializeToString())


@pytest.mark.parametrize("name", ["arm", "rpi5", "armv7"])
def test_the_same_bits_as_here(name: str, tmp_path: Path) -> None:
    needs_qemu(name)
    path = tmp_path / "net.onnx"
    network(path)
    x = np.random.default_rng(1).standard_normal((1, 3, 21, 19)).astype(np.float32)
    options = Options(float_convs=Quantize({0: InputRange(-3.0, 3.5), 1: InputRange(0.0, 40.0)}))
    artifact = compiler.build(path, targets.find("native"), options)
    assert [layer.kind for layer in artifact.manifest.layers].count("conv2d_int8") == 2
    (found,) = run(path, tmp_path, x, target=name, options=options)
    assert np.array_equal(found, bnncc.load(artifact).run(x)["y"])
