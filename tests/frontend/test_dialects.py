"""Standard Sign before layers of +-s: rewritten to our operators, and the numbers stay onnxruntime's, 0 included."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnncc
from bnncc import compiler
from bnncc.frontend import dialects
from tests.onnxmodels import Array, model, node

RNG = np.random.default_rng(0)


def signs(*shape: int) -> Array:
    return RNG.choice([-1.0, 1.0], shape).astype(np.float32)


def with_zeros(*shape: int) -> Array:
    """Real numbers of which a third are 0, some of them -0."""
    x = RNG.standard_normal(shape).astype(np.float32)
    return np.where(RNG.random(shape) < 0.3, RNG.choice(np.array([0.0, -0.0], np.float32), shape), x)


def run(content: onnx.ModelProto, x: Array) -> list[Array]:
    found: list[Array] = onnxruntime.InferenceSession(content.SerializeToString()).run(None, {"x": x})
    return found


def check(nodes: list[Any], weights: dict[str, Array], x: Array, *, layers: int, rank: int | None = None) -> None:
    """Rewritten `layers` times; the rewritten file in onnxruntime, and the artifact, give the same."""
    content = model(nodes, weights, x.shape, rank=rank, functions=False)
    (want,) = run(content, x)
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(content)
    (record,) = dialects.apply(rewritten)
    assert (record.rewrites, record.refused) == (layers, {})
    onnx.checker.check_model(rewritten)
    assert sum(n.domain == "bnncc" and n.op_type != "Binarize" for n in rewritten.graph.node) >= layers
    artifact = bnncc.compile(content.SerializeToString())
    assert sum(layer.binary for layer in artifact.manifest.layers) >= layers
    for got in (run(rewritten, x)[0], next(iter(bnncc.load(artifact).run(x).values()))):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


SCALE = RNG.uniform(0.5, 2, (6, 1, 1, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("weights", "shape", "attributes"),
    [
        ({"w": signs(6, 8, 3, 3)}, (2, 8, 6, 5), {"pads": [1, 1, 1, 1]}),
        ({"w": signs(6, 4, 3, 3) * SCALE, "b": signs(6)}, (1, 8, 6, 5), {"group": 2, "strides": [2, 1]}),
        ({"w": signs(6, 8, 3) * SCALE[..., 0], "b": signs(6)}, (1, 8, 9), {"pads": [1, 0], "dilations": [2]}),
        ({"w": signs(6, 8, 1, 1) * np.float32(0.3)}, (1, 8, 3, 3), {"auto_pad": "VALID"}),
    ],
)
def test_convolutions(weights: dict[str, Array], shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    nodes = [node("Sign", ["x"], "s"), node("Conv", ["s", *weights], "y", **attributes)]
    check(nodes, weights, with_zeros(*shape), layers=1)


@pytest.mark.parametrize("flip", [0, 1])
def test_products(flip: int) -> None:
    w = signs(5, 12) * RNG.uniform(0.5, 2, (5, 1)).astype(np.float32)
    weights = {"w": w if flip else np.ascontiguousarray(w.T), "b": signs(5)}
    gemm = node("Gemm", ["s", "w", "b"], "y", transB=flip, alpha=0.5, beta=2.0)
    check([node("Sign", ["x"], "s"), gemm], weights, with_zeros(3, 12), layers=1)
    if not flip:
        matmul = [node("Sign", ["x"], "s"), node("MatMul", ["s", "w"], "y")]
        check(matmul, {"w": weights["w"]}, with_zeros(3, 12), layers=1)


@pytest.mark.parametrize("shift", [0.1, -0.5])
def test_a_sign_that_is_never_0_takes_one_convolution(shift: float) -> None:
    weights = {"w": signs(6, 8, 3, 3), "c": np.array(shift, np.float32)}
    nodes = [
        node("Sign", ["x"], "a"),
        node("Add", ["a", "c"] if shift > 0 else ["c", "a"], "b"),
        node("Sign", ["b"], "s"),
        node("Conv", ["s", "w"], "y", pads=[1, 1, 1, 1]),
    ]
    x = with_zeros(1, 8, 5, 5)
    check(nodes, weights, x, layers=1)
    rewritten = model(nodes, weights, x.shape, functions=False)
    dialects.apply(rewritten)
    assert sum(n.op_type == "BinaryConv" for n in rewritten.graph.node) == 1


def test_two_layers_and_another_reader_of_the_sign() -> None:
    weights = {"w": signs(6, 8, 3, 3), "v": signs(8, 6, 1, 1)}
    nodes = [
        node("Sign", ["x"], "s"),
        node("Conv", ["s", "w"], "a", pads=[1, 1, 1, 1]),
        node("Sign", ["a"], "t"),
        node("Conv", ["t", "v"], "c"),
        node("Add", ["c", "s"], "y"),
    ]
    check(nodes, weights, with_zeros(1, 8, 5, 5), layers=2)


def test_folded_weights_deviate_a_little() -> None:
    w = signs(6, 8, 3, 3) * SCALE
    w *= 1 + RNG.uniform(-3e-7, 3e-7, w.shape).astype(np.float32)
    nodes = [node("Sign", ["x"], "s"), node("Conv", ["s", "w"], "y")]
    check(nodes, {"w": w}, with_zeros(1, 8, 5, 5), layers=1)


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        ([node("Conv", ["s", "w"], "y")], {"w": signs(6, 8, 3, 3) * RNG.uniform(1, 2, (6, 8, 3, 3))}, "mean magnitude"),
        ([node("Conv", ["s", "w"], "y")], {"w": np.where(RNG.random((6, 8, 3, 3)) < 0.1, 0, 1)}, "mean magnitude"),
        ([node("Neg", ["v"], "w"), node("Conv", ["s", "w"], "y")], {"v": signs(6, 8, 3, 3)}, "computed by nodes"),
        ([node("Conv", ["s", "w"], "y", auto_pad="SAME_UPPER")], {"w": signs(6, 8, 3, 3)}, "auto_pad"),
    ],
)
def test_what_is_left_alone_is_said(nodes: list[Any], weights: dict[str, Array], reason: str) -> None:
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    content = model([node("Sign", ["x"], "s"), *nodes], weights, (1, 8, 5, 5), functions=False)
    layers, records = compiler.inspect(content.SerializeToString())
    assert any(reason in layer.why_not for layer in layers if layer.name == "y")
    assert any(record.name == "dialect standard Sign" and reason in "".join(record.refused) for record in records)


def test_layers_without_a_sign_are_not_spoken_of() -> None:
    content = model([node("Conv", ["x", "w"], "y")], {"w": signs(6, 8, 3, 3)}, (1, 8, 5, 5), functions=False)
    (record,) = dialects.apply(content)
    assert (record.rewrites, record.refused) == (0, {})


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_random_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group, size = int(rng.integers(1, 3)), tuple(int(v) for v in rng.integers(3, 7, 2))
    inputs, outputs = group * int(rng.integers(1, 20)), group * int(rng.integers(1, 9))
    kernel = [int(rng.integers(1, 4)) for _ in range(2)]
    w = rng.choice([-0.5, 0.5], (outputs, inputs // group, *kernel)).astype(np.float32)
    x = rng.integers(-1, 2, (1, inputs, *size)).astype(np.float32)
    pads = [int(v) for v in rng.integers(0, 3, 4)]
    nodes = [node("Sign", ["x"], "s"), node("Conv", ["s", "w"], "y", group=group, pads=pads)]
    check(nodes, {"w": w}, x, layers=1)
