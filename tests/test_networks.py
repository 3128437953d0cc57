"""The networks people deploy, from the exported file to the artifact, against onnxruntime running the same file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnncc
from bnncc import compiler, targets
from bnncc.runtime import cpu
from bnncc.runtime.array import Array
from tests import networks

Exported = Callable[[str], Path]

NETWORKS = ("vgg_small", "bireal_resnet20", "bireal_resnet18", "quicknet", "reactnet18")
FAST = "bireal_resnet20"
# A float32 sum of n products in another order moves by about n * 2^-24 of its terms.
OUTPUT_TOLERANCE = 1e-4
THRESHOLD_TOLERANCE = 1e-5

everywhere = pytest.mark.parametrize(
    "name", [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)


def scale(values: Array) -> float:
    return float(np.abs(values).max())


def native_or_skip(target: str) -> str:
    found = targets.find(target)
    if not found.runs_on(cpu.host()):
        pytest.skip(f"this machine does not run {target}")
    return target


@pytest.mark.parametrize("target", ["native", "x86-avx2"])
@everywhere
def test_every_layer_fed_the_same_signs(name: str, target: str, exported: Exported) -> None:
    """Sums of binary layers are equal; what is binarised next differs in sign only where it is all but zero."""
    path = exported(name)
    expected = networks.reference(path, seed=1)
    model = networks.forced(path, expected)
    loaded = bnncc.load(bnncc.compile(model.SerializeToString(), native_or_skip(target)))
    found = loaded.run(expected.inputs | {f"given_{key}": value for key, value in expected.signed.items()})
    for key, sums in expected.sums.items():
        assert np.array_equal(found[key], sums), key
    flipped = 0
    for key, before in expected.signed.items():
        if key in expected.inputs:
            continue
        assert np.abs(found[key] - before).max() <= OUTPUT_TOLERANCE * scale(before), key
        differs = (found[key] >= 0) != (before >= 0)
        flipped += int(differs.sum())
        assert np.all(np.abs(before[differs]) <= THRESHOLD_TOLERANCE * scale(before)), key
    for key, output in expected.outputs.items():
        assert np.abs(found[key] - output).max() <= OUTPUT_TOLERANCE * scale(output), key
    print(f"{name} on {target}: {flipped} signs differ, all within {THRESHOLD_TOLERANCE} of their threshold")

    # With no sign in doubt the network as it is deployed, fused and packed, must come to the same result.
    deployed = bnncc.load(bnncc.compile(path, target))
    result = deployed.run(expected.inputs)
    if flipped == 0:
        for key, output in expected.outputs.items():
            assert np.abs(result[key] - output).max() <= OUTPUT_TOLERANCE * scale(output), key


@everywhere
def test_every_layer_is_explained(name: str, exported: Exported) -> None:
    """Each binary layer of the file is binary in the artifact; every other layer says why it is not."""
    path = exported(name)
    layers, passes = compiler.inspect(path, "x86-avx2")
    binary = sum(node.op_type != "Binarize" for node in onnx.load(path).graph.node if node.domain == networks.DOMAIN)
    assert sum(layer.binary for layer in layers) == binary
    assert all(layer.why_not for layer in layers if not layer.binary)
    assert all(layer.macs > 0 and layer.bytes_weights > 0 for layer in layers if layer.binary)
    assert {record.name for record in passes} >= {"bnncc.FoldBatchNorm", "bnncc.LowerToXnor", "bnncc.FuseEpilogue"}
