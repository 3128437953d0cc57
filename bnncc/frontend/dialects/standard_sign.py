"""Standard `Sign` in front of a convolution or product whose weights are +-s: one s for each output channel.

ONNX's Sign(0) is 0, and our Binarize gives +1 or -1. With {0, 1}, which Binarize gives too,

    Sign(x) = [x > 0] - [-x > 0]
    Conv(Sign(x), s * w) = s * (BinaryConv([x > 0], w) - BinaryConv([-x > 0], w))        w = +-1

for every x, 0 included, and with zeros around the image, where both bits are 0. Both sums are exact integers below
2^24, so their difference is exact; it is rounded once, by s. The price is two binary convolutions for one.

One is enough where 0 cannot come: Sign(Sign(x) + c) with 0 < |c| < 1, which other tools write to have a sign of two
values, is Binarize(x) for c > 0 and -Binarize(-x) for c < 0.

Before::                                                  After::

    s = Sign(x)                                               a = Binarize<unipolar=1>(x)
    y = Conv(s, w, b)                                         n = Neg(x)
                                                              b = Binarize<unipolar=1>(n)
                                                              p = BinaryConv(a, packed)
                                                              q = BinaryConv(b, packed)
                                                              d = Sub(p, q)
                                                              e = Mul(d, scale)
                                                              y = Add(e, bias)

What changes: a NaN counts as 0 in the sum, where Sign(NaN) would make NaN of it. Weights of a channel may differ from
their mean magnitude by 1e-6 of it, as those do that other tools have folded: less than what the order of a float sum
does.

Leaves alone: weights of other magnitudes, or computed by nodes; other types than float32; Gemm with transA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.frontend.dialects import Record
from bnncc.frontend.dialects.graph import Graph
from bnncc.ops import ONNX_DOMAIN

if TYPE_CHECKING:
    import onnx

NAME = "standard Sign"
LAYERS = ("Conv", "Gemm", "MatMul")
# Of a weight's magnitude, relative to its channel's mean.
TOLERANCE = 1e-6

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


class Left(Exception):
    """Why a layer is left alone."""


def rewrite(model: onnx.ModelProto) -> Record:
    """Rewrite every layer behind a Sign that can be."""
    graph, record = Graph(model.graph), Record(NAME)
    changes: dict[str, list[onnx.NodeProto]] = {}
    for node in list(model.graph.node):
        if node.domain not in ("", "ai.onnx") or node.op_type not in LAYERS:
            continue
        sign = graph.maker(node.input[0], "Sign")
        if sign is None:
            continue
        try:
            changes[node.output[0]] = _layer(graph, node, sign)
            record.rewrites += 1
        except Left as reason:
            node.name = node.name or graph.fresh(f"{node.op_type}_{node.output[0]}")
            record.refused[node.name] = f"behind a Sign, but {reason}"
    if changes:
        graph.replace(changes)
    return record


def _layer(graph: Graph, node: onnx.NodeProto, sign: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that give what `node` gives."""
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    weight = _weight(graph, node, attributes)
    positive, scale = _signs_and_scale(weight)
    bias = _bias(graph, node, attributes)
    name = node.name or node.output[0]
    operator, numbers = _operator(node, weight, attributes)
    packed = graph.add_constant(f"{name}_packed", _packed(positive))
    made: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], hint: str, domain: str = "", **more: object) -> str:
        output = graph.fresh(f"{name}_{hint}")
        made.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **more))
        return output

    def product(values: str, hint: str) -> str:
        return add(operator, [values, packed], hint, ONNX_DOMAIN, **numbers)

    def binarized(values: str, hint: str, unipolar: int) -> str:
        return add("Binarize", [values], hint, ONNX_DOMAIN, unipolar=unipolar, threshold=0.0)

    source, at_zero = _of_two_values(graph, sign)
    if at_zero == 1:
        total = product(binarized(source, "signs", 0), "sum")
    elif at_zero == -1:
        total, scale = product(binarized(add("Neg", [source], "negative"), "signs", 0), "sum"), -scale
    else:
        above = product(binarized(source, "above", 1), "sum_above")
        below = product(binarized(add("Neg", [source], "negative"), "below", 1), "sum_below")
        total = add("Sub", [above, below], "sum")
    shape = (-1,) + (1,) * (weight.ndim - 2)
    if not (scale == 1).all():
        total = add("Mul", [total, graph.add_constant(f"{name}_scale", scale.reshape(shape))], "scaled")
    if bias is not None:
        total = add("Add", [total, graph.add_constant(f"{name}_bias", bias)], "shifted")
    # The last node takes the layer's place.
    made[-1].output[0], made[-1].name = node.output[0], name
    return made


def _of_two_values(graph: Graph, sign: onnx.NodeProto) -> tuple[str, int]:
    """What the sign is taken of, and 1 or -1 where it has two values alone: what it has at 0. 0 where it has three."""
    source = sign.input[0]
    add = graph.maker(source, "Add")
    if add is not None:
        for inner, other in (add.input, tuple(reversed(add.input))):
            first, shift = graph.maker(inner, "Sign"), graph.constant(other)
            if first is not None and shift is not None and shift.size == 1:
                value = float(shift.reshape(()))
                if 0 < abs(value) < 1:
                    return first.input[0], 1 if value > 0 else -1
    return source, 0


def _weight(graph: Graph, node: onnx.NodeProto, attributes: dict[str, object]) -> Floats:
    """float32 [O, I / group, ...], output channels first."""
    found = graph.constant(node.input[1])
    if found is None:
        raise Left("its weight is computed by nodes, or at run time; fold constants before")
    if found.dtype != np.float32:
        raise Left(f"its weight is {found.dtype}; float32 is supported")
    weight = found.astype(np.float32, copy=False)
    if node.op_type == "Conv":
        if weight.ndim not in (3, 4):
            raise Left(f"its weight has shape {weight.shape}; 1-D and 2-D convolutions are supported")
        return weight
    if weight.ndim != 2 or attributes.get("transA", 0):
        raise Left(
            f"its weight has shape {weight.shape}, transA is {attributes.get('transA', 0)}; needed: 2 axes and 0"
        )
    flipped = node.op_type == "Gemm" and bool(attributes.get("transB", 0))
    outputs_first = weight if flipped else weight.T
    return outputs_first * np.float32(_number(attributes, "alpha")) if node.op_type == "Gemm" else outputs_first


def _bias(graph: Graph, node: onnx.NodeProto, attributes: dict[str, object]) -> Floats | None:
    """float32 [O, 1, ...] for a convolution; what broadcasts over [M, O] for a product."""
    if len(node.input) < 3 or not node.input[2]:
        return None
    found = graph.constant(node.input[2])
    if found is None or found.dtype != np.float32:
        raise Left("its bias is no float32 constant")
    bias = found.astype(np.float32, copy=False)
    if node.op_type == "Conv":
        weight = graph.constant(node.input[1])
        assert weight is not None
        return bias.reshape((-1,) + (1,) * (weight.ndim - 2))
    return bias * np.float32(_number(attributes, "beta"))


def _number(attributes: dict[str, object], name: str) -> float:
    found = attributes.get(name, 1.0)
    assert isinstance(found, int | float)
    return float(found)


def _signs_and_scale(weight: Floats) -> tuple[Bits, Floats]:
    """Where a weight [O, ...] is positive, and s [O] with weight = +-s."""
    flat = weight.reshape(len(weight), -1)
    magnitude = np.abs(flat)
    if not flat.size or not np.isfinite(magnitude).all():
        raise Left("its weight is empty, or holds NaN or infinity")
    first = magnitude[:, 0]
    exact = (magnitude == first[:, None]).all(axis=1)
    mean = magnitude.mean(axis=1, dtype=np.float64).astype(np.float32)
    scale = np.where(exact, first, mean)
    wrong = np.argwhere(np.abs(magnitude - scale[:, None]) > TOLERANCE * scale[:, None])
    if len(wrong):
        channel, index = (int(i) for i in wrong[0])
        raise Left(f"weight {flat[channel, index]} of channel {channel} is not +-{scale[channel]}, its mean magnitude")
    return weight > 0, scale


def _operator(node: onnx.NodeProto, weight: Floats, attributes: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Our operator and its attributes."""
    if node.op_type != "Conv":
        return "BinaryGemm", {"channels": weight.shape[1]}
    rank = weight.ndim - 2
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Left("auto_pad asks for pads that depend on the image; write them out")
    pads = [0] * (2 * rank) if attributes.get("auto_pad") == b"VALID" else attributes.get("pads", [0] * (2 * rank))
    return "BinaryConv", {
        "channels": weight.shape[1],
        "kernel_shape": list(weight.shape[2:]),
        "strides": attributes.get("strides", [1] * rank),
        "pads": pads,
        "dilations": attributes.get("dilations", [1] * rank),
        "group": attributes.get("group", 1),
        "pad_value": 0.0,
    }


def _packed(positive: Bits) -> npt.NDArray[np.uint8]:
    """[O, I, ...] -> [O, T, bytes] for a convolution, [O, bytes] for a product."""
    if positive.ndim == 2:
        return bitpack.pack(positive)
    return bitpack.pack(np.moveaxis(positive.reshape(*positive.shape[:2], -1), 1, 2))
