"""OrPool2d: the bitwise OR of packed pixels over a window, which is max-pooling of their signs.

Relax: `R.bnncc.or_pool2d(b, kernel, strides, pads)`. b is uint8 [N, H, W, B]; padding reads as 0 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.window import Pads, Pair, Window

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.or_pool2d"


def meaning(b: npt.NDArray[np.uint8], *, kernel: Pair, strides: Pair, pads: Pads) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, B] -> uint8 [N, OH, OW, B]."""
    top, left, bottom, right = pads
    padded = np.pad(b, ((0, 0), (top, bottom), (left, right), (0, 0)))
    window = Window(kernel=kernel, strides=strides)
    out = np.zeros((b.shape[0], *window.output(padded.shape[1], padded.shape[2]), b.shape[3]), dtype=np.uint8)
    for tap in window.taps(padded):
        out |= tap.astype(np.uint8)
    return out


def call(b: Any, kernel: Any, strides: Any, pads: Any, span: Any = None) -> relax.Call:
    """The Relax call; tuples may be Python's or Relax's."""
    return arguments.make(RELAX, [b, *(arguments.shape(value) for value in (kernel, strides, pads))], span)


def parameters(call: relax.Call) -> Window:
    """The window of `call`."""
    kernel, strides, pads = (arguments.ints(argument) for argument in call.args[1:4])
    return Window(
        kernel=(kernel[0], kernel[1]), strides=(strides[0], strides[1]), pads=(pads[0], pads[1], pads[2], pads[3])
    )


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType."""
    n, height, width, size = arguments.static_shape(RELAX, "b", call.args[0], 4, "uint8")
    return arguments.tensor_type((n, *parameters(call).output(height, width), size), "uint8")


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    window = parameters(call)

    def compute(b: Any) -> Any:
        n, height, width, size = (int(e) for e in b.shape)
        top, left = window.pads[:2]

        def pixel(i: Any, y: Any, x: Any, k: Any) -> Any:
            total = tirx.const(0, "uint8")
            for tap_y in range(window.kernel[0]):
                for tap_x in range(window.kernel[1]):
                    row, column = y * window.strides[0] + tap_y - top, x * window.strides[1] + tap_x - left
                    inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
                    total = total | tirx.if_then_else(inside, b[i, row, column, k], tirx.const(0, "uint8"))
            return total

        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, width), size)]
        return te.compute(sizes, pixel, name="or_pool")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="or_pool2d")
