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
        "Split Tile DepthToSpace SpaceToDepth Trilu EyeLike GridSample "
        "QuantizeLinear DequantizeLinear"
    ),
    _one_output: "LayerNormalization",
    _only(detect_negative=1, detect_positive=1): "IsInf",
    _conv_transpose: "ConvTranspose",
    _lp_pool: "LpPool",
}

CHECKS: dict[str, Check] = {name: check for check, names in _CHECKED.items() for name in names.split()}
