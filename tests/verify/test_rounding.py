"""What rounding excuses and what it does not: both sides of each tolerance, and the samples that it moves."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnncc import bitpack, targets
from bnncc.options import Options
from bnncc.progress import silent
from bnncc.verify import execute
from bnncc.verify.compare import ROUNDING, TOLERANCE, compare
from bnncc.verify.layers import Check, hadamard
from bnncc.verify.reference import Reference
from bnncc.verify.trace import Trace, trace
from tests.onnxmodels import binary, model, node

Array = np.ndarray[Any, Any]


def wrong(check: Check, expected: dict[str, Array], found: Array) -> bool:
    (difference,) = compare([check], [expected], [{check.output: found}])
    assert difference.differ
    return difference.wrong


@pytest.mark.parametrize(("part", "is_wrong"), [(0.9, False), (1.1, True)])
def test_floats_up_to_the_tolerance(part: float, is_wrong: bool) -> None:
    want = np.array([[0.5, -8.0, 2.0]], np.float32)
    got = want + np.array([[part * TOLERANCE * 8, 0, 0]], np.float32)
    assert wrong(Check("y", "values", "layer"), {"y": want}, got) == is_wrong


def test_integers_not_at_all() -> None:
    want = np.array([[1e6, 3]], np.float32)
    assert wrong(Check("y", "sums", "layer"), {"y": want}, want + np.array([[0, 1]], np.float32))


@pytest.mark.parametrize(("threshold", "part", "is_wrong"), [(0, 0.9, False), (0, 1.1, True), (0.5, 0.9, False)])
def test_signs_up_to_the_margin(threshold: float, part: float, is_wrong: bool) -> None:
    x = np.array([[threshold + part * ROUNDING * 4, -4, 1, -1]], np.float32)
    signs = np.where(x > threshold, 1, -1)
    check = Check("y", "signs", "layer", "x", threshold, channels=4)
    turned = signs * np.array([[-1, 1, 1, 1]])
    sums, other = ((each @ hadamard(4).T).astype(np.float32) for each in (signs, turned))
    assert wrong(check, {"y": sums, "x": x}, other) == is_wrong
    assert wrong(check, {"y": sums, "x": x}, -sums)


@pytest.fixture
def network() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """x + bias, a sign, a binary layer, whose input holds 1e-7 in one place."""
    rng = np.random.default_rng(0)
    x = rng.choice([-2.0, 2.0], (1, 8, 2, 2)).astype(np.float32)
    x[0, 3, 1, 1] = 1e-7
    weights: dict[str, Array] = {
        "w": bitpack.pack(rng.integers(0, 2, (8, 1, 8)).astype(bool)),
        "bias": np.zeros((8, 1, 1), np.float32),
    }
    ones = {name: [1, 1] for name in ("kernel_shape", "strides", "dilations")}
    nodes = [
        node("Add", ["x", "bias"], "shifted"),
        binary("Binarize", ["shifted"], "signs"),
        binary("BinaryConv", ["signs", "w"], "y", channels=8, pads=[0, 0, 0, 0], **ones),
    ]
    return model(nodes, weights, x.shape), {"x": x}


def traced(
    network: onnx.ModelProto, inputs: dict[str, Array], bias: float, patch: pytest.MonkeyPatch, scale: float = 1.0
) -> list[Trace]:
    """Two runs, the second of which finds the bias moved by `bias`, as if it were rounded so; scores times `scale`."""

    @contextlib.contextmanager
    def rounded(network: onnx.ModelProto, *given: object) -> Iterator[execute.Run]:
        other = onnx.ModelProto()
        other.CopyFrom(network)
        (place,) = (tensor for tensor in other.graph.initializer if tensor.name == "bias")
        place.CopyFrom(numpy_helper.from_array(np.full((8, 1, 1), bias, np.float32), "bias"))
        yield Reference(other).run

    patch.setattr(execute, "machine_code", rounded)
    before = Reference(network).run(inputs)
    with rounded(network) as run:
        after = {name: scale * array for name, array in run(inputs).items()}
    outputs = ([before, before], [before, after])
    return list(trace(network, [inputs, inputs], *outputs, targets.find("x86"), Options(), silent))


@pytest.mark.parametrize(("bias", "explained"), [(-2e-7, True), (-2.1, False)])
def test_what_turned_first(
    bias: float, explained: bool, network: tuple[onnx.ModelProto, dict[str, Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = traced(*network, bias, monkeypatch)
    assert (found.first, found.last, found.explained) == (1, 1, explained)
    assert [turn.layer for turn in found.turns] == ["y"]
    assert "1 of 32 signs turned before y, at 1e-07 from the threshold" in str(found) or not explained
    assert ("NOT EXPLAINED" in str(found)) != explained


def test_scores_that_move_without_a_sign(
    network: tuple[onnx.ModelProto, dict[str, Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole network's code is not the sum of its layers' code."""
    (found,) = traced(*network, 0.0, monkeypatch, scale=1.01)
    assert (found.turns, found.explained) == ((), False)


def test_nothing_moved(network: tuple[onnx.ModelProto, dict[str, Array]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert traced(*network, 1e-9, monkeypatch) == []
