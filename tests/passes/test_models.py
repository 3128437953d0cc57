"""Exported networks through every pass: the values of onnxruntime, and what became bits is pinned."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from bnncc.frontend.importer import from_onnx
from tests.irtest import evaluate, run, whole

# name -> rewrites of LowerToXnor and FoldThresholds
BECAME_BITS = {"digits_net": (3, 2), "vgg_small": (5, 4), "bireal_resnet20": (18, 0)}


@pytest.mark.parametrize("name", BECAME_BITS)
def test_values_and_counts(name: str, exported: Callable[[str], Path]) -> None:
    network = from_onnx(exported(name))
    shape = [int(extent) for extent in network.module["main"].params[0].ty.shape.values]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(exported(name))
    want = session.run(list(network.outputs), {network.inputs[0]: x})
    passes = whole("x86-avx512")
    outcomes = run(network.module, *passes)
    counts = {each.name: outcome.rewrites for each, outcome in zip(passes, outcomes, strict=True)}
    (got,) = evaluate(outcomes[-1].module, x)
    np.testing.assert_allclose(got, want[0], rtol=1e-4, atol=1e-4)
    assert (counts["bnncc.LowerToXnor"], counts["bnncc.FoldThresholds"]) == BECAME_BITS[name]
