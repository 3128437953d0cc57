"""Random small networks, from ONNX to the artifact, equal to onnxruntime in every bit.

All constants are dyadic and every BatchNorm has a variance whose root is exact, so that no sum is ever rounded and the
order in which it is computed cannot matter: ties at thresholds, negative and zero gammas included, the outputs must be
equal.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bnncc
from bnncc import bitpack
from bnncc.targets import runnable
from tests.onnxmodels import Array, binary, model, node

RUNNABLE = [target.name for target in runnable()]


@dataclass
class Network:
    """An ONNX graph in the making; `draw` makes its choices."""

    draw: Any
    shape: tuple[int, ...]
    name: str = "x"
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))

    def fresh(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}_{len(self.weights)}"

    def constant(self, kind: str, value: Any) -> str:
        name = self.fresh(kind)
        self.weights[name] = np.asarray(value)
        return name

    def apply(self, op: str, *inputs: str, **attributes: Any) -> None:
        output = self.fresh("t")
        make = binary if op.startswith("Bin") else node
        self.nodes.append(make(op, [self.name, *inputs], output, **attributes))
        self.name = output

    def binary_conv(self) -> None:
        """Binarize and BinaryConv with everything that can vary."""
        draw, (batch, channels, height, width) = self.draw, self.shape
        unipolar = draw(st.booleans())
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0][:4]))
        kernel = draw(st.tuples(st.integers(1, min(3, height)), st.integers(1, min(3, width))))
        strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
        dilations = [draw(st.integers(1, 2)) if k > 1 else 1 for k in kernel]
        pads = [draw(st.integers(0, 2)) for _ in range(4)]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        inside = (height + pads[0] + pads[2], width + pads[1] + pads[3])
        if any(r > i for r, i in zip(reach, inside, strict=True)):
            dilations, reach = [1, 1], list(kernel)
        outputs = groups * draw(st.integers(1, 40 // groups + 1))
        attributes = {"unipolar": int(unipolar)} | (
            {"threshold": draw(st.sampled_from([0.0, 0.5]))} if unipolar else {}
        )
        self.apply("Binarize", **attributes)
        signs = self.random.integers(0, 2, (outputs, kernel[0] * kernel[1], channels // groups)).astype(bool)
        self.apply(
            "BinaryConv",
            self.constant("w", bitpack.pack(signs)),
            channels=channels // groups,
            kernel_shape=list(kernel),
            strides=list(strides),
            pads=pads,
            dilations=dilations,
            group=groups,
            pad_value=draw(st.sampled_from([0.0] if unipolar else [-1.0, 0.0, 1.0])),
        )
        extents = [(i - r) // s + 1 for i, r, s in zip(inside, reach, strides, strict=True)]
        self.shape = (batch, outputs, *extents)

    def batch_norm(self) -> None:
        channels = self.shape[1]
        parameters = {
            "gamma": self.random.choice([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], channels),
            "beta": self.random.integers(-4, 5, channels) / 2,
            "mean": self.random.integers(-8, 9, channels),
            "var": self.random.choice([0.25, 1.0, 4.0], channels),
        }
        names = [self.constant(kind, value.astype(np.float32)) for kind, value in parameters.items()]
        self.apply("BatchNormalization", *names, epsilon=0.0)

    def after(self, residual: tuple[str, tuple[int, ...]]) -> None:
        """Some of what stands between two binary layers."""
        channels = self.shape[1]
        for step in self.draw(
            st.lists(st.sampled_from(["relu", "norm", "add", "pool", "scale", "prelu", "average"]), max_size=4)
        ):
            if step == "relu":
                self.apply("Relu")
            elif step == "norm":
                self.batch_norm()
            elif step == "scale":
                scale = self.random.choice([-1.0, 0.5, 2.0], (channels, 1, 1)).astype(np.float32)
                self.apply("Mul", self.constant("s", scale))
            elif step == "prelu":
                slope = self.random.choice([-0.5, 0.25, 1.0], (channels, 1, 1)).astype(np.float32)
                self.apply("PRelu", self.constant("p", slope))
            elif step == "add" and residual[1] == self.shape:
                self.apply("Add", residual[0])
            elif step == "pool" and min(self.shape[2:]) >= 2:
                self.apply("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
                self.shape = (*self.shape[:2], self.shape[2] // 2, self.shape[3] // 2)
            elif step == "average" and min(self.shape[2:]) >= 2:
                self.apply("AveragePool", kernel_shape=[2, 2], strides=[1, 1])
                self.shape = (*self.shape[:2], self.shape[2] - 1, self.shape[3] - 1)


@st.composite
def networks(draw: Any) -> tuple[Any, Array, str]:
    """A model, an input of small multiples of 1/2, and a target."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 70)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    network = Network(draw, shape)
    kept = []
    for _ in range(draw(st.integers(1, 3))):
        before = (network.name, network.shape)
        network.binary_conv()
        network.after(before)
        kept.append(network.name)
    outputs = {network.name} | set(draw(st.lists(st.sampled_from(kept), max_size=1)))
    content = model(network.nodes, network.weights, shape, outputs=sorted(outputs))
    x = (network.random.integers(-3, 4, shape) / 2).astype(np.float32)
    return content, x, draw(st.sampled_from(RUNNABLE))


def check(drawn: tuple[Any, Array, str]) -> None:
    content, x, target = drawn
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # onnxruntime's own rewrites fold constants into each other, which rounds where the graph does not.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content.SerializeToString(), options)
    names = [value.name for value in content.graph.output]
    loaded = bnncc.load(bnncc.compile(content.SerializeToString(), target))
    got = loaded(x)
    for name, want in zip(names, session.run(names, {"x": x}), strict=True):
        np.testing.assert_array_equal(got[name] if len(names) > 1 else got, want)
    binary_nodes = sum(n.op_type == "BinaryConv" for n in content.graph.node)
    assert sum(layer.binary for layer in loaded.manifest.layers) == binary_nodes


relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@settings(relaxed, max_examples=12)
@given(networks())
def test_a_few_random_networks(drawn: tuple[Any, Array, str]) -> None:
    check(drawn)


@pytest.mark.slow
@settings(relaxed, max_examples=120)
@given(networks())
def test_many_random_networks(drawn: tuple[Any, Array, str]) -> None:
    check(drawn)
