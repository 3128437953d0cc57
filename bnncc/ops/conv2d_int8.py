"""Conv2dInt8: convolution of 8-bit integers, an int32 sum for every output.

Relax: `R.bnncc.conv2d_int8(q, w, bias, width, strides, dilations)`.

    sum[n, y, x, o] = bias[o] + sum over the window of q * w

q is what `quantize` gives, uint8, int8 or int16 [N, H, row_elements], already padded: in each row `width` pixels of C
values. w is int8 [KH, KW, C, O], bias int32 [O]. Where q stands for scale * (q - zero_point), a bias of -zero_point *
sum of w makes the sum that of (q - zero_point) * w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments, expressions
from bnncc.ops.expressions import Array, View, extents, pair
from bnncc.ops.quantize import LIMITS
from bnncc.ops.window import Pair, Window

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Shape, Tensor

RELAX = "relax.bnncc.conv2d_int8"


@dataclass(frozen=True, eq=False)
class Conv2dInt8(View):
    """One call. The window has no pads: the integers are padded before."""

    OPERATOR: ClassVar[str] = "bnncc.conv2d_int8"

    integers: relax.Expr
    weights: relax.Expr
    bias: relax.Expr
    width: int
    window: Window

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        q, weights, bias, width, strides, dilations = call.args
        rows, columns, *_ = extents(weights)
        window = Window(kernel=(rows, columns), strides=pair(strides), dilations=pair(dilations))
        return cls(call, q, weights, bias, int(width), window)


def meaning(
    q: Array,
    w: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    *,
    width: int,
    strides: Pair = (1, 1),
    dilations: Pair = (1, 1),
) -> npt.NDArray[np.int32]:
    """[N, H, row_elements] -> int32 [N, OH, OW, O]."""
    rows, columns, channels, _ = w.shape
    window = Window(kernel=(rows, columns), strides=strides, dilations=dilations)
    image = q[:, :, : width * channels].reshape(*q.shape[:2], width, channels).astype(np.int32)
    total: npt.NDArray[np.int32] = np.broadcast_to(bias, (q.shape[0], *window.output(q.shape[1], width), len(bias)))
    for pixels, weights in zip(window.taps(image), w.reshape(-1, *w.shape[2:]).astype(np.int32), strict=True):
        total = total + pixels @ weights
    return total


def call(
    q: relax.Expr,
    w: Tensor,
    bias: Tensor,
    width: Integer,
    strides: Shape = (1, 1),
    dilations: Shape = (1, 1),
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers, tuples and arrays may be Python's or Relax's."""
    tensors = [q, arguments.constant(w, "int8"), arguments.constant(bias, "int32")]
    tuples = [arguments.shape(value) for value in (strides, dilations)]
    return arguments.make(RELAX, [*tensors, arguments.integer(width), *tuples], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    conv = Conv2dInt8.of(call)
    window, dtype = conv.window, expressions.dtype(conv.integers)
    arguments.require(dtype in LIMITS, RELAX, f"q is {dtype}; it must be one of {', '.join(LIMITS)}")
    n, height, row_elements = arguments.static_shape(RELAX, "q", conv.integers, 3, dtype)
    *_, channels, outputs = arguments.static_shape(RELAX, "w", conv.weights, 4, "int8")
    found = arguments.static_shape(RELAX, "bias", conv.bias, 1, "int32")
    arguments.require(found == (outputs,), RELAX, f"bias has shape {found}, needed: ({outputs},)")
    needed = conv.width * channels
    arguments.require(row_elements >= needed, RELAX, f"rows of {row_elements} values, needed: {needed}")
    return arguments.tensor_type((n, *window.output(height, conv.width), outputs), "int32")


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    conv = Conv2dInt8.of(call)
    window = conv.window

    def compute(q: te.Tensor, w: te.Tensor, bias: te.Tensor) -> te.Tensor:
        n, height, _ = (int(e) for e in q.shape)
        rows, columns, channels, outputs = (int(e) for e in w.shape)
        (step_y, step_x), (dilate_y, dilate_x) = window.strides, window.dilations
        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, conv.width), outputs)]
        sizes_of_a_product = {"row": rows, "column": columns, "channel": channels}
        i, j, k = (te.reduce_axis((0, tirx.IntImm("int64", e)), name=name) for name, e in sizes_of_a_product.items())

        def product(b: tirx.Var, y: tirx.Var, x: tirx.Var, o: tirx.Var) -> relax.Expr:
            value = q[b, y * step_y + i * dilate_y, (x * step_x + j * dilate_x) * channels + k]
            return te.sum(value.astype("int32") * w[i, j, k, o].astype("int32"), axis=[i, j, k])

        products = te.compute(sizes, product, name="products")
        return te.compute(sizes, lambda b, y, x, o: products[b, y, x, o] + bias[o], name="sums")

    return builder.call_te(compute, *call.args[:3], primfunc_name_hint="conv2d_int8")
