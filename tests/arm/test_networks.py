"""Networks compiled for ARM, executed: the same bits as the x86 build."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc import targets
from bnncc.runtime import cpu
from tests import networks
from tests.arm.emulate import needs_qemu, run

NETWORKS = ("digits_net", "bireal_resnet20", "vgg_small", "quicknet", "reactnet18", "bireal_resnet18")
CASES = [("digits_net", name) for name in ("arm", "rpi3", "rpi5", "armv7")] + [
    pytest.param(name, target, marks=pytest.mark.slow) for name in NETWORKS[1:] for target in ("arm", "rpi3", "armv7")
]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_same_bits_as_on_x86(name: str, target: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Everything that is binarised has the same sign, every sum of a binary layer is equal."""
    needs_qemu(target)
    avx2 = targets.find("x86-avx2")
    if not avx2.runs_on(cpu.host()):
        pytest.skip("this machine does not run x86-avx2")
    model = networks.exposed(exported(name))
    path = tmp_path / "exposed.onnx"
    path.write_bytes(model.SerializeToString())
    inputs = networks.random_input(model, seed=2)
    expected = bnncc.load(bnncc.compile(path, "x86-avx2"))(inputs)
    names = [output.name for output in model.graph.output]
    found = dict(zip(names, run(path, tmp_path, *inputs.values(), target=target), strict=True))
    for node in model.graph.node:
        if node.domain != networks.DOMAIN:
            continue
        if node.op_type == "Binarize" and node.input[0] in found:
            assert np.array_equal(found[node.input[0]] >= 0, expected[node.input[0]] >= 0), node.name
        elif node.op_type != "Binarize":
            assert np.array_equal(found[node.output[0]], expected[node.output[0]]), node.name
    for output in model.graph.output:
        tolerance = 1e-4 * np.abs(expected[output.name]).max()
        assert np.abs(found[output.name] - expected[output.name]).max() <= tolerance, output.name
