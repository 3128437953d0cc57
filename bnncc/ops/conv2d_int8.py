"""Conv2dInt8: convolution of 8-bit integers, an int32 sum for every output.

Relax: `R.bnncc.conv2d_int8(q, w, bias, width, strides, dilations)`.

    sum[n, y, x, o] = bias[o] + sum over the window of q * w

q is what `quantize` gives, uint8, int8 or int16 [N, H, row], already padded: in each row `width` pixels of C values.
w is int8 [KH, KW, C, O], bias int32 [O]. Where q stands for scale * (q - zero_point), a bias of -zero_point * sum of w
makes the sum that of (q - zero_point) * w.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.quantize import LIMITS
from bnncc.ops.window import Pair, Window

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.conv2d_int8"


class Parameters(NamedTuple):
    """What a call holds beside its tensors. The window has no pads: the integers are padded before."""

    width: int
    window: Window


def meaning(
    q: npt.NDArray[np.integer[Any]],
    w: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    *,
    width: int,
    strides: Pair = (1, 1),
    dilations: Pair = (1, 1),
) -> npt.NDArray[np.int32]:
    """[N, H, row] -> int32 [N, OH, OW, O]."""
    rows, columns, channels, _ = w.shape
    window = Window(kernel=(rows, columns), strides=strides, dilations=dilations)
    image = q[:, :, : width * channels].reshape(*q.shape[:2], width, channels).astype(np.int32)
    total: npt.NDArray[np.int32] = np.broadcast_to(bias, (q.shape[0], *window.output(q.shape[1], width), len(bias)))
    for pixels, weights in zip(window.taps(image), w.reshape(-1, *w.shape[2:]).astype(np.int32), strict=True):
        total = total + pixels @ weights
    return total


def call(
    q: Any, w: Any, bias: Any, width: Any, strides: Any = (1, 1), dilations: Any = (1, 1), span: Any = None
) -> relax.Call:
    """The Relax call; numbers, tuples and arrays may be Python's or Relax's."""
    tensors = [q, arguments.constant(w, "int8"), arguments.constant(bias, "int32")]
    tuples = [arguments.shape(value) for value in (strides, dilations)]
    return arguments.make(RELAX, [*tensors, arguments.integer(width), *tuples], span)


def parameters(call: relax.Call) -> Parameters:
    """What `call` was given beside its tensors."""
    rows, columns, *_ = (int(extent) for extent in call.args[1].ty.shape.values)
    (step_y, step_x), (dilate_y, dilate_x) = (arguments.ints(argument) for argument in call.args[4:6])
    window = Window(kernel=(rows, columns), strides=(step_y, step_x), dilations=(dilate_y, dilate_x))
    return Parameters(int(call.args[3]), window)


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType."""
    dtype = str(call.args[0].ty.dtype)
    arguments.require(dtype in LIMITS, RELAX, f"q is {dtype}; it must be one of {', '.join(LIMITS)}")
    n, height, row = arguments.static_shape(RELAX, "q", call.args[0], 3, dtype)
    *_, channels, outputs = arguments.static_shape(RELAX, "w", call.args[1], 4, "int8")
    found = arguments.static_shape(RELAX, "bias", call.args[2], 1, "int32")
    arguments.require(found == (outputs,), RELAX, f"bias has shape {found}, needed: ({outputs},)")
    width, window = parameters(call)
    arguments.require(row >= width * channels, RELAX, f"rows of {row} values, needed: {width * channels}")
    return arguments.tensor_type((n, *window.output(height, width), outputs), "int32")


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    width, window = parameters(call)

    def compute(q: Any, w: Any, bias: Any) -> Any:
        n, height, _ = (int(e) for e in q.shape)
        rows, columns, channels, outputs = (int(e) for e in w.shape)
        (step_y, step_x), (dilate_y, dilate_x) = window.strides, window.dilations
        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, width), outputs)]
        extents = {"row": rows, "column": columns, "channel": channels}
        i, j, k = (te.reduce_axis((0, tirx.IntImm("int64", e)), name=name) for name, e in extents.items())

        def product(b: Any, y: Any, x: Any, o: Any) -> Any:
            value = q[b, y * step_y + i * dilate_y, (x * step_x + j * dilate_x) * channels + k]
            return te.sum(value.astype("int32") * w[i, j, k, o].astype("int32"), axis=[i, j, k])

        products = te.compute(sizes, product, name="products")
        return te.compute(sizes, lambda b, y, x, o: products[b, y, x, o] + bias[o], name="sums")

    return builder.call_te(compute, *call.args[:3], primfunc_name_hint="conv2d_int8")
