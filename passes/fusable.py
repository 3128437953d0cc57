"""What the kernel of a fused function can begin with, and what it can go on with in registers."""

from __future__ import annotations

from tvm import relax

from bnncc.ops import elementwise
from bnncc.ops.conv2d_int8 import Conv2dInt8
from bnncc.ops.expressions import dtype, extents, is_constant, is_per_channel, operator
from bnncc.ops.or_pool2d import OrPool2d
from bnncc.ops.pack import Pack, Packing
from bnncc.ops.quantize import Quantize
from bnncc.ops.standard import Astype, AvgPool2d, Conv2d, Matmul, MaxPool2d, Mean
from bnncc.ops.threshold import Threshold
from bnncc.ops.xnor_conv2d import XnorConv2d
from bnncc.passes import dataflow


def packing_of(value: relax.Expr) -> Packing | None:
    """The operator if it packs bits."""
    return Pack.match(value) or Threshold.match(value)


def is_anchor(value: relax.Expr) -> bool:
    """Whether this begins a group: an operator with a kernel, in the form that the kernel knows, which is NHWC and
    constant weights."""
    if conv := XnorConv2d.match(value):
        return all(is_constant(c) for c in (conv.weights, conv.offset, conv.row_class, conv.col_class))
    if integers := Conv2dInt8.match(value):
        return is_constant(integers.weights) and is_constant(integers.bias)
    if OrPool2d.match(value) or Quantize.match(value):
        return True
    if floats := Conv2d.match(value):
        layouts = (floats.data_layout, floats.kernel_layout)
        return _is_float(floats.x, value) and layouts == ("NHWC", "HWIO") and is_constant(floats.weights)
    if pool := MaxPool2d.match(value) or AvgPool2d.match(value):
        return _is_float(pool.x, value) and pool.layout == "NHWC" and not pool.ceil_mode
    if mean := Mean.match(value):
        return _is_float(mean.x, value) and mean.axes == (1, 2) and len(extents(mean.x)) == 4
    if product := Matmul.match(value):
        is_matrix = _is_float(product.x, value) and len(extents(product.x)) == 2
        return is_matrix and is_constant(product.weights) and len(extents(product.weights)) == 2
    return False


def _is_float(x: relax.Expr, result: relax.Expr) -> bool:
    return dataflow.has_static_shape(result) and dtype(x) == dtype(result) == "float32"


def why_not(value: relax.Call, operands: list[relax.Var], shape: tuple[int, ...]) -> str:
    """Why a kernel cannot apply this operator to its results in registers; "" if it can."""
    name = operator(value)
    if cast := Astype.match(value):
        is_exact = (cast.source, cast.target) == ("int32", "float32")
        return "" if is_exact else f"astype from {cast.source} to {cast.target}"
    if not packing_of(value) and dtype(value) != "float32":
        return f"{name} in {dtype(value)}"
    if len(shape) not in (2, 4):
        return f"{name} on a tensor of {len(shape)} dimensions; kernels take 2 and 4"
    if any(extents(v) != shape for v in operands):
        return f"{name} with an operand that broadcasts over pixels"
    constants = [a for a in value.args if is_constant(a)]
    if not elementwise.is_last_axis(value) or not all(is_per_channel(c, shape) for c in constants):
        return f"{name} with a constant that is not one value per channel"
    return ""
