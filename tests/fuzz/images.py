"""Operators on images, and the binary layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnncc import bitpack
from bnncc.ops import ONNX_DOMAIN
from tests.fuzz.generate import Graph, Maker


def batch_norm(g: Graph) -> bool:
    x = g.find("float32", ranks=range(2, 6))
    if x is None or x.high > 1e4:
        return False
    c = x.shape[1]
    gamma = g.constant(g.rng.choice([-2.0, -0.5, 0.0, 1.0], c), "float32")
    beta, mean = (g.constant(g.rng.integers(-4, 5, c) / 2, "float32") for _ in range(2))
    var = g.constant(g.rng.choice([0.25, 1.0, 4.0], c), "float32")
    return g.add("BatchNormalization", [x, gamma, beta, mean, var], 4 * x.high + 12, x.step / 16, epsilon=0.0)


def conv(g: Graph) -> bool:
    x = g.find("float32", ranks=(3, 4))
    if x is None or x.high > 1e4:
        return False
    window = _window(g, x.shape[2:], pool=False)
    groups = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    per_group, outputs = x.shape[1] // groups, groups * g.number(1, 5)
    w = g.constant(g.values("float32", (outputs, per_group, *window["kernel_shape"])))
    bias = [g.constant(g.values("float32", (outputs,)))] if g.chance(0.5) else []
    high = x.high * 4 * per_group * float(np.prod(window["kernel_shape"])) + 4
    return g.add("Conv", [x, w, *bias], high, x.step / 4, group=groups, **window)


def conv_transpose(g: Graph) -> bool:
    x = g.find("float32", ranks=(3, 4))
    if x is None or x.high > 1e3:
        return False
    rank = len(x.shape) - 2
    kernel = [g.number(1, 3) for _ in range(rank)]
    groups = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    strides = [g.number(1, 3) for _ in range(rank)]
    w = g.constant(g.values("float32", (x.shape[1], g.number(1, 3), *kernel)))
    bias = [g.constant(g.values("float32", (w.shape[1] * groups,)))] if g.chance(0.5) else []
    attributes: dict[str, Any] = {"strides": strides, "group": groups}
    if g.chance(0.5):
        attributes["pads"] = [g.number(0, k - 1) for k in kernel * 2]
    if g.chance(0.3):
        attributes["output_padding"] = [g.number(0, s - 1) for s in strides]
    if g.chance(0.2):
        attributes["dilations"] = [g.number(1, 2) for _ in kernel]
    if g.chance(0.1):
        attributes["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        attributes.pop("pads", None)
    high = x.high * 4 * x.shape[1] * float(np.prod(kernel)) + 4
    return g.add("ConvTranspose", [x, w, *bias], high, x.step / 4, **attributes)


def pool(g: Graph) -> bool:
    x = g.find("float32", ranks=(3, 4))
    if x is None:
        return False
    op = g.pick(["MaxPool", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
    if op.startswith("Global"):
        return g.add(op, [x], x.high * 90, x.step if op == "GlobalMaxPool" else 0.0)
    window = _window(g, x.shape[2:], pool=True)
    if op != "MaxPool" or g.opset < 10:
        window.pop("dilations", None)
    if g.opset >= 10 and g.chance(0.3):
        window["ceil_mode"] = 1
    if op == "AveragePool":
        window["count_include_pad"] = g.number(0, 1)
    if op == "LpPool":
        window.pop("ceil_mode", None) if g.opset < 18 else None
        window["p"] = g.number(1, 2)
    return g.add(op, [x], x.high * 10, x.step if op == "MaxPool" else 0.0, **window)


def binary_conv(g: Graph) -> bool:
    """Binarize and BinaryConv, or BinaryGemm."""
    x = g.find("float32", ranks=(2, 3, 4), exact=True)
    if x is None or g.opset != 18:  # the bodies of our operators are written in it
        return False
    unipolar = g.number(0, 1)
    if not g.add("Binarize", [x], 1, 1, domain=ONNX_DOMAIN, shape=x.shape, unipolar=unipolar, threshold=0.0):
        return False
    s = g.tensors[-1]
    if len(x.shape) == 2:
        outputs, channels = g.number(1, 40), x.shape[1]
        w = g.constant(bitpack.pack(g.rng.integers(0, 2, (outputs, channels)).astype(bool)))
        return g.add(
            "BinaryGemm", [s, w], channels, 1, domain=ONNX_DOMAIN, shape=(x.shape[0], outputs), channels=channels
        )
    window = _window(g, x.shape[2:], pool=False)
    if "auto_pad" in window:
        return False
    rank = len(x.shape) - 2
    window = {"strides": [1] * rank, "pads": [0] * 2 * rank, "dilations": [1] * rank} | window
    groups = g.pick([d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0])
    channels, outputs = x.shape[1] // groups, groups * g.number(1, 6)
    k, p = window["kernel_shape"], window["pads"]
    reach = [(k[i] - 1) * window["dilations"][i] + 1 for i in range(rank)]
    size = tuple((x.shape[2 + i] + p[i] + p[i + rank] - reach[i]) // window["strides"][i] + 1 for i in range(rank))
    if min(size) < 1:
        return False
    w = g.constant(bitpack.pack(g.rng.integers(0, 2, (outputs, int(np.prod(k)), channels)).astype(bool)))
    value = 0.0 if unipolar else float(g.number(-1, 1))
    shape = (x.shape[0], outputs, *size)
    return g.add(
        "BinaryConv", [s, w], channels * float(np.prod(k)), 1, domain=ONNX_DOMAIN, shape=shape,
        channels=channels, group=groups, pad_value=value, **window,
    )  # fmt: skip


def interaction(g: Graph) -> bool:
    x = g.find("float32", ranks=(2, 3, 4), exact=True)
    if x is None or g.opset != 18 or x.shape[1] < 2:
        return False
    tables = []
    for _ in range(2):
        steps, c = g.number(0, 9), x.shape[1]
        teacher = g.rng.integers(0, c, steps)
        student = (teacher + g.rng.integers(1, c, steps)) % c
        rows = [teacher, student, g.rng.integers(-8, 9, steps), g.rng.integers(-4, 5, steps)]
        tables.append(g.constant(np.stack(rows, axis=1), "int32"))
    return g.add("ChannelInteraction", [x, *tables], x.high + 72, x.step, domain=ONNX_DOMAIN, shape=x.shape)


def normalise(g: Graph) -> bool:
    x = g.find("float32", ranks=range(2, 6), exact=True)
    if x is None or x.high > 1e3:
        return False
    op, c = (
        g.pick(
            ["LayerNormalization", "InstanceNormalization", "LRN", "GroupNormalization", "MeanVarianceNormalization"]
        ),
        x.shape[1],
    )
    if op == "LRN":
        return g.add(op, [x], x.high, 0.0, size=g.pick([1, 3, 5]), alpha=0.1)
    if op == "LayerNormalization":
        axis = g.number(1, len(x.shape) - 1)
        scale = g.constant(g.values("float32", x.shape[axis:]))
        bias = [g.constant(g.values("float32", x.shape[axis:]))] * g.chance(0.5)
        return g.opset >= 17 and g.add(op, [x, scale, *bias], 100, 0.0, axis=axis, epsilon=0.1)
    if op == "MeanVarianceNormalization":
        return len(x.shape) == 4 and g.add(op, [x], 100, 0.0)
    if op == "InstanceNormalization":
        parts = [g.constant(g.values("float32", (c,))) for _ in range(2)]
        return len(x.shape) > 2 and g.add(op, [x, *parts], 100, 0.0, epsilon=0.1)
    groups = g.pick([d for d in range(1, c + 1) if c % d == 0])
    parts = [g.constant(g.values("float32", (c if g.opset >= 21 else groups,))) for _ in range(2)]
    return g.opset >= 18 and len(x.shape) > 2 and g.add(op, [x, *parts], 100, 0.0, num_groups=groups, epsilon=0.1)


def _window(g: Graph, sizes: tuple[int, ...], *, pool: bool) -> dict[str, Any]:
    """kernel_shape, and some of strides, pads, dilations, auto_pad."""
    rank = len(sizes)
    kernel = [g.number(1, min(3, size)) for size in sizes]
    window: dict[str, Any] = {"kernel_shape": kernel}
    if g.chance(0.6):
        window["strides"] = [g.number(1, 3) for _ in range(rank)]
    if g.chance(0.3):
        window["dilations"] = [g.number(1, 2) if k > 1 else 1 for k in kernel]
    if g.chance(0.15):
        window["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        window.pop("dilations", None)
    elif g.chance(0.5):
        window["pads"] = [g.number(0, k - 1 if pool else 2) for k in kernel * 2]
    return window


ALL: list[Maker] = [
    batch_norm, conv, conv, conv_transpose, pool, pool, binary_conv, binary_conv, interaction, normalise,
]  # fmt: skip
