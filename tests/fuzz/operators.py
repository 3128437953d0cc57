"""One function a kind of operators: each tries to append a node to a random graph, and says whether it did."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnncc.ops import ONNX_DOMAIN, bitpack
from tests.fuzz.generate import FLOATS, INTEGERS, Graph, Maker, Tensor

NUMBERS = (*FLOATS, *INTEGERS)


def unary_exact(g: Graph) -> bool:
    """Piecewise linear, or exact in floating point."""
    x = g.find(*FLOATS, wild=True)
    if x is None:
        return False
    op = g.pick(
        ["Relu", "Abs", "Neg", "LeakyRelu", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Shrink", "Identity"]
    )
    attributes: dict[str, Any] = {"LeakyRelu": {"alpha": 0.25}, "Shrink": {"bias": 0.5, "lambd": 0.5}}.get(op, {})
    if op == "HardSwish" and (g.opset < 14 or x.high > 1e3):
        return False
    if op in ("ThresholdedRelu", "Shrink") and not x.is_exact:
        return False
    step = {"HardSigmoid": 0.0, "HardSwish": 0.0, "LeakyRelu": x.step / 4, "Shrink": x.step / 2}.get(op, x.step)
    return g.add(op, [x], {"HardSigmoid": 1.0}.get(op, x.high + 0.5), step, **attributes)


def unary_smooth(g: Graph) -> bool:
    x = g.find("float32")
    op = g.pick(
        [
            "Sigmoid",
            "Tanh",
            "Elu",
            "Selu",
            "Softplus",
            "Softsign",
            "Erf",
            "Gelu",
            "Mish",
            "Sin",
            "Cos",
            "Atan",
            "Asinh",
            "Celu",
        ]
    )
    if x is None or x.high > 1e4:
        return False
    return g.add(op, [x], 2 * x.high + 2, 0.0)


def unary_steep(g: Graph) -> bool:
    """May be infinite or not a number, and enlarges differences: on exact values."""
    x = g.find("float32", exact=True)
    op = g.pick(["Exp", "Log", "Sqrt", "Reciprocal", "Sinh", "Cosh", "Tan", "Acos", "Asin", "Atanh", "Acosh"])
    if x is None or x.high > 16:
        return False
    return g.add(op, [x], 1e4 if op not in ("Exp", "Sinh", "Cosh") else 1e7, 0.0)


def unary_jump(g: Graph) -> bool:
    x = g.find(*FLOATS, exact=True, wild=True)
    if x is None:
        return False
    op = g.pick(["Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf"])
    if (op == "Round" and g.opset < 11) or (op == "IsInf" and g.opset < 10) or (op == "IsInf" and x.dtype == "float64"):
        return False
    return g.add(op, [x], max(1.0, x.high + 1), min(1.0, max(x.step, 1.0)))


def unary_integer(g: Graph) -> bool:
    x = g.find("int64", "int32", "int8")
    op = g.pick(["Abs", "Neg", "Sign", "Relu"])
    return x is not None and x.high < 100 and g.add(op, [x], x.high, x.step)


def logical(g: Graph) -> bool:
    x = g.find("bool")
    if x is None:
        return False
    op = g.pick(["Not", "And", "Or", "Xor"])
    return g.add(op, [x] if op == "Not" else _either_order(g, x, g.other(x)), 1, 1)


def binary(g: Graph) -> bool:
    x = g.find(*NUMBERS, wild=True)
    if x is None:
        return False
    y, op = g.other(x), g.pick(["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"])
    if (op in ("Max", "Min") and g.opset < 12 and not x.is_float) or (op in ("Sum", "Mean") and not x.is_float):
        return False
    if x.dtype == "uint8" and op == "Sub":
        return False
    high = x.high * y.high if op == "Mul" else x.high + y.high
    if op in ("Max", "Min"):
        high = max(x.high, y.high)
    if x.is_float and high > 1e6:
        return False
    step = x.step * y.step if op == "Mul" else min(x.step, y.step) / (2 if op == "Mean" else 1)
    more = [g.other(x)] if op in ("Max", "Min") and g.chance(0.3) else []
    if more:
        high, step = max(high, more[0].high), min(step, more[0].step)
    return g.add(op, [*_either_order(g, x, y), *more], high, step)


def divide(g: Graph) -> bool:
    x = g.find("float32", "int64", "int32")
    if x is None:
        return False
    if x.is_float:
        y = g.constant(g.rng.choice([-2.0, 0.5, 3.0, 4.0], g.pick([(), x.shape, (1,)])).astype(np.float32))
        return g.add("Div", [x, y], x.high * 2, 0.0)
    y = g.constant(g.rng.choice([-3, 2, 5], g.pick([(), x.shape, (1,)])), x.dtype)
    op = g.pick(["Div", "Mod"] if g.opset >= 10 else ["Div"])
    attributes: dict[str, Any] = {"fmod": g.number(0, 1)} if op == "Mod" else {}
    return g.add(op, [x, y], x.high, 1, **attributes)


def power(g: Graph) -> bool:
    x = g.find("float32", exact=True)
    if x is None or x.high > 40:
        return False
    exponent = g.pick([2.0, 3.0, 0.5, -1.0, 0.0])
    if g.opset >= 12 and g.chance(0.3):
        return g.add("Pow", [x, g.constant(g.pick([2, 3]), g.pick(["int64", "int32"]))], x.high**3 + 4, 0.0)
    return g.add("Pow", [x, g.constant(np.float32(exponent))], x.high**3 + 16, 0.0)


def compare(g: Graph) -> bool:
    x = g.find("float32", "float64", "int64", "int32", exact=True)
    if x is None:
        return False
    y = g.other(x)
    op = g.pick(["Greater", "Less", "Equal"] + ["GreaterOrEqual", "LessOrEqual"] * (g.opset >= 12))
    if not y.is_exact or (op == "Equal" and x.is_float and g.opset < 11):
        return False
    return g.add(op, _either_order(g, x, y), 1, 1)


def choose(g: Graph) -> bool:
    c, x = g.find("bool"), g.find("float32", "int64", "uint8")
    if c is None or x is None or not _fits(c.shape, x.shape):
        return False
    y = g.other(x)
    return g.add("Where", [c, *_either_order(g, x, y)], max(x.high, y.high), min(x.step, y.step))


def clip(g: Graph) -> bool:
    x = g.find("float32", "float64", *(("int64", "int32", "int8", "uint8") if g.opset >= 12 else ()), wild=True)
    if x is None:
        return False
    low, high = (0, 2) if not x.is_float else g.pick([(-1.5, 2.0), (0.0, 6.0), (-1.0, 1.0), (0.25, 0.25)])
    keep = g.number(0, 3)
    if g.opset < 11:
        attributes: dict[str, Any] = {
            k: float(v) for i, (k, v) in enumerate((("min", low), ("max", high))) if keep != i
        }
        return x.dtype == "float32" and g.add("Clip", [x], max(x.high, 6), min(x.step, 0.25), **attributes)
    bounds: list[Tensor | None] = [g.constant(v, x.dtype) if keep != i else None for i, v in enumerate((low, high))]
    return g.add("Clip", [x, *bounds], max(x.high, 6), min(x.step, 0.25))


def prelu(g: Graph) -> bool:
    x = g.find("float32", ranks=range(1, 7), wild=True)
    if x is None:
        return False
    shape = g.pick(
        [(1,), (), x.shape[-1:], (x.shape[1],) + (1,) * (len(x.shape) - 2) if len(x.shape) > 1 else (1,), x.shape]
    )
    slope = g.constant(g.rng.choice([-0.5, 0.25, 1.0, 2.0], shape), "float32")
    return g.add("PRelu", [x, slope], x.high * 2, x.step / 4)


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


def products(g: Graph) -> bool:
    x = g.find("float32", ranks=range(1, 6))
    if x is None or x.high > 1e4:
        return False
    n = g.number(1, 6)
    high = x.high * 4 * x.shape[-1] + 4
    if len(x.shape) == 2 and g.chance(0.5):
        flip = g.number(0, 1)
        w = g.constant(g.values("float32", (n, x.shape[1]) if flip else (x.shape[1], n)))
        bias = [g.constant(g.values("float32", g.pick([(n,), (1, n), (1,), (x.shape[0], n)])))] * g.chance(0.6)
        return g.add(
            "Gemm", [x, w, *bias], 2 * high, x.step / 8, transB=flip, alpha=g.pick([1.0, 0.5]), beta=g.pick([1.0, 2.0])
        )
    if g.chance(0.3):
        same = [
            t for t in g.tensors if t.dtype == "float32" and len(t.shape) >= 2 and len(x.shape) >= 2 and t.high < 1e4
        ]
        y = g.pick(same)
        return y is not None and g.add("MatMul", [x, y], x.high * y.high * x.shape[-1], x.step * y.step)
    lead = g.pick([(), x.shape[:-2]])
    w = g.constant(g.values("float32", (*lead, x.shape[-1], n) if g.chance(0.8) else (x.shape[-1],)))
    return g.add("MatMul", [x, w], high, x.step / 4)


def reduce(g: Graph) -> bool:
    op = g.pick(["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"])
    exact = op in ("Sum", "L1", "Max", "Min", "SumSquare", "Prod")
    x = g.find("float32", *(("int64", "int32") if op in ("Sum", "Max", "Min") else ()), ranks=range(1, 7))
    if x is None or (op in ("LogSum", "LogSumExp") and x.high > 20) or (op == "LogSum" and not x.is_exact):
        return False
    axes = sorted({g.number(-len(x.shape), len(x.shape) - 1) for _ in range(g.number(1, 2))})
    if len({a % len(x.shape) for a in axes}) != len(axes):
        return False
    count = int(np.prod(x.shape))
    if op == "Prod" and (count > 6 or x.high > 8):
        return False
    attributes: dict[str, Any] = {"keepdims": g.number(0, 1)}
    inputs: list[Tensor | None] = [x]
    whole = g.chance(0.15)
    if not whole and g.opset >= (13 if op == "Sum" else 18):
        inputs.append(g.constant(axes, "int64"))
    elif not whole:
        if min(axes) < 0 and g.opset < 11:
            return False
        attributes["axes"] = axes
    high = {"Max": x.high, "Min": x.high, "Mean": x.high, "Prod": x.high**6, "SumSquare": x.high**2 * count}.get(
        op, x.high * count + 10
    )
    step = {"SumSquare": x.step**2, "Prod": x.step**6}.get(op, x.step)
    return g.add("Reduce" + op, inputs, high, step if exact else 0.0, **attributes)


def arg_extreme(g: Graph) -> bool:
    x = g.find("float32", "int32", ranks=range(1, 7), exact=True)
    if x is None:
        return False
    attributes: dict[str, Any] = {"axis": g.number(0, len(x.shape) - 1), "keepdims": g.number(0, 1)}
    if g.opset >= 12 and g.chance(0.3):
        attributes["select_last_index"] = 1
    return g.add(g.pick(["ArgMax", "ArgMin"]), [x], max(x.shape), 1, **attributes)


def softmax(g: Graph) -> bool:
    x = g.find("float32", ranks=range(1, 7))
    if x is None or x.high > 60:
        return False
    op = g.pick(["Softmax", "LogSoftmax"])
    low = 0 if g.opset < 11 else -len(x.shape)
    return g.add(op, [x], 1 if op == "Softmax" else 200, 0.0, axis=g.number(low, len(x.shape) - 1))


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


def _either_order(g: Graph, x: Tensor, y: Tensor) -> list[Tensor | None]:
    return [x, y] if g.chance(0.6) else [y, x]


def _fits(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(shape, to)
    except ValueError:
        return False
    return True


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


def _all() -> list[Maker]:
    from tests.fuzz import movers

    mine: list[Maker] = [
        unary_exact, unary_smooth, unary_steep, unary_jump, unary_integer, logical, binary, binary, binary, divide,
        power, compare, choose, clip, prelu, batch_norm, conv, conv, conv_transpose, pool, pool, binary_conv,
        binary_conv, products, products, reduce, reduce, arg_extreme, softmax, normalise,
    ]  # fmt: skip
    return [*mine, *movers.ALL]


NAN_SAFE: list[Maker] = [clip, binary, prelu, unary_jump]
ALL: list[Maker] = _all()
