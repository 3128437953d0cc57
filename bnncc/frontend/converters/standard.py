"""Standard operators that go through TVM's converters, and what each must not be asked for there.

An operator that is not named here or in the table of our own converters is refused. Each named one agrees with
onnxruntime on random graphs (tests/fuzz); a check raises ModelError for an attribute that TVM's converter reads
otherwise than ONNX, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnncc.frontend.node import Node
from bnncc.runtime.errors import ModelError

Check = Callable[[Node], None]


def _anything(node: Node) -> None:
    """No attribute is known to go wrong."""


def _one_output(node: Node) -> None:
    if node.outputs > 1:
        raise ModelError(f"{node.outputs} outputs are asked for; only the first is supported")


def _only(**allowed: object) -> Check:
    """Attributes that must keep the one value that is supported."""

    def check(node: Node) -> None:
        for name, value in allowed.items():
            found = node.attributes.get(name, value)
            if found != value:
                raise ModelError(f"{name} is {found}; only {value} is supported")

    return check


def _floats(node: Node) -> None:
    if np.dtype(node.dtype(0)).kind != "f":
        raise ModelError(f"input is {node.dtype(0)}; it must be float32 or float64")


def _resize(node: Node) -> None:
    """Exact where every axis grows or shrinks by scale = new size / old size."""
    _only(antialias=0, keep_aspect_ratio_policy=b"stretch", exclude_outside=0)(node)
    shape, new = node.shape(0), node.result_shape()
    if "axes" in node.attributes:
        raise ModelError("axes are not supported; give a scale or size for every axis")
    mode, allowed = node.text("coordinate_transformation_mode", "half_pixel"), "half_pixel, asymmetric, align_corners"
    if mode not in allowed.split(", "):
        raise ModelError(f"coordinate_transformation_mode is {mode}; allowed: {allowed}")
    if len(shape) not in (3, 4) or shape[:2] != new[:2]:
        raise ModelError(f"from {shape} to {new}; only height and width of [N, C, H, W] or [N, C, L] can change")
    index = 2 if node.opset >= 11 else 1
    if node.given(index) and node.constant(index, "scales").size:
        scales = node.constant(index, "scales").astype(np.float64)
        if any(scale * old != size for scale, old, size in zip(scales, shape, new, strict=True)):
            raise ModelError(f"scales {scales.tolist()} of {shape} give no whole sizes; give sizes instead")


def _conv_transpose(node: Node) -> None:
    if "output_shape" in node.attributes:
        raise ModelError("output_shape is not supported; give pads and output_padding instead")
    rank = len(node.shape(0)) - 2
    if rank not in (1, 2):
        raise ModelError(f"input of shape {node.shape(0)}; images [N, C, H, W] and sequences [N, C, L] are supported")
    _only(dilations=[1] * rank)(node)
    node.ints("strides", (1,) * rank)


def _lp_pool(node: Node) -> None:
    _only(ceil_mode=0, auto_pad=b"NOTSET")(node)
    if len(node.shape(0)) not in (3, 4):
        raise ModelError(f"input of shape {node.shape(0)}; images [N, C, H, W] and sequences [N, C, L] are supported")


def _one_hot(node: Node) -> None:
    if node.dtype(2) not in ("float32", "int64"):
        raise ModelError(f"values are {node.dtype(2)}; allowed: float32, int64")


_CHECKED: dict[Check, str] = {
    _anything: (
        # one tensor, element by element
        "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Elu Erf Exp Floor Gelu IsNaN Log Mish Neg Not Reciprocal "
        "Round Selu Shrink Sigmoid Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu CastLike BitwiseNot "
        # several
        "Add Sub Mul Div And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Where "
        "BitShift BitwiseAnd BitwiseOr BitwiseXor "
        # sums and the like
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare ArgMax ArgMin MatMul Einsum Softmax LogSoftmax Hardmax "
        "GroupNormalization InstanceNormalization LRN MeanVarianceNormalization GlobalLpPool "
        # moving
        "Slice Split Tile DepthToSpace SpaceToDepth Trilu EyeLike GatherElements GatherND GridSample "
        "QuantizeLinear DequantizeLinear"
    ),
    _one_output: "LayerNormalization",
    _only(detect_negative=1, detect_positive=1): "IsInf",
    _resize: "Resize Upsample",
    _conv_transpose: "ConvTranspose",
    _lp_pool: "LpPool",
    _one_hot: "OneHot",
}

CHECKS: dict[str, Check] = {name: check for check, names in _CHECKED.items() for name in names.split()}
