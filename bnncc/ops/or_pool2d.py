"""OrPool2d: the bitwise OR of packed pixels over a window, which is max-pooling of their signs.

Relax: `R.bnncc.or_pool2d(b, kernel, strides, pads)`. b is uint8 [N, H, W, B]; padding reads as 0 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.expressions import View, pads, pair
from bnncc.ops.window import Pads, Pair, Window

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Shape

RELAX = "relax.bnncc.or_pool2d"


@dataclass(frozen=True, eq=False)
class OrPool2d(View):
    """One call."""

    OPERATOR: ClassVar[str] = "bnncc.or_pool2d"

    bits: relax.Expr
    window: Window

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        bits, kernel, strides, border = call.args
        return cls(call, bits, Window(kernel=pair(kernel), strides=pair(strides), pads=pads(border)))


def meaning(b: npt.NDArray[np.uint8], *, kernel: Pair, strides: Pair, pads: Pads) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, B] -> uint8 [N, OH, OW, B]."""
    top, left, bottom, right = pads
    padded = np.pad(b, ((0, 0), (top, bottom), (left, right), (0, 0)))
    window = Window(kernel=kernel, strides=strides)
    out = np.zeros((b.shape[0], *window.output(padded.shape[1], padded.shape[2]), b.shape[3]), dtype=np.uint8)
    for tap in window.taps(padded):
        out |= tap.astype(np.uint8)
    return out


def call(b: relax.Expr, kernel: Shape, strides: Shape, pads: Shape, span: tvm.ir.Span | None = None) -> relax.Call:
    """The Relax call; tuples may be Python's or Relax's."""
    return arguments.make(RELAX, [b, *(arguments.shape(value) for value in (kernel, strides, pads))], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    pool = OrPool2d.of(call)
    n, height, width, size = arguments.static_shape(RELAX, "b", pool.bits, 4, "uint8")
    return arguments.tensor_type((n, *pool.window.output(height, width), size), "uint8")


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    pool = OrPool2d.of(call)
    window = pool.window

    def compute(b: te.Tensor) -> te.Tensor:
        n, height, width, size = (int(e) for e in b.shape)
        top, left = window.pads[:2]

        def pixel(i: tirx.Var, y: tirx.Var, x: tirx.Var, k: tirx.Var) -> relax.Expr:
            total = tirx.const(0, "uint8")
            for tap_y in range(window.kernel[0]):
                for tap_x in range(window.kernel[1]):
                    row, column = y * window.strides[0] + tap_y - top, x * window.strides[1] + tap_x - left
                    inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
                    total = total | tirx.if_then_else(inside, b[i, row, column, k], tirx.const(0, "uint8"))
            return total

        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, width), size)]
        return te.compute(sizes, pixel, name="or_pool")

    return builder.call_te(compute, pool.bits, primfunc_name_hint="or_pool2d")
