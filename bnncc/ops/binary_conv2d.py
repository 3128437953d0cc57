"""BinaryConv2d: what BinaryConv and BinaryGemm become on import, with channels innermost.

Relax: `R.bnncc.binary_conv2d(x, w, kernel, strides, pads, dilations, groups, pad_value)`. x is float32 [N, H, W, C]
holding {-1, +1} or {0, 1}; w uint8 [O, T, packed_bytes(C / groups)], T the taps row-major, bit 1 is +1 and bit 0 is
-1; pads are (top, left, bottom, right); pad_value is -1, 0 or 1. The result is float32 [N, OH, OW, O], exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.ops import arguments
from bnncc.ops.expressions import View, pads, pair
from bnncc.ops.window import Pads, Pair, Window

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Shape, Tensor

RELAX = "relax.bnncc.binary_conv2d"


@dataclass(frozen=True, eq=False)
class BinaryConv2d(View):
    """One call."""

    OPERATOR: ClassVar[str] = "bnncc.binary_conv2d"

    x: relax.Expr
    weights: relax.Expr
    window: Window
    groups: int
    pad_value: int

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        x, weights, kernel, strides, border, dilations, groups, pad_value = call.args
        window = Window(kernel=pair(kernel), strides=pair(strides), pads=pads(border), dilations=pair(dilations))
        return cls(call, x, weights, window, int(groups), int(pad_value))


def meaning(
    x: npt.NDArray[np.float32],
    w: npt.NDArray[np.uint8],
    *,
    kernel: Pair,
    strides: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilations: Pair = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> npt.NDArray[np.float32]:
    """float32 [N, H, W, C] -> float32 [N, OH, OW, O]."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad_value)
    window = Window(kernel=kernel, strides=strides, dilations=dilations)
    n, outputs, per_group = x.shape[0], w.shape[0], x.shape[3] // groups
    signs = np.where(bitpack.unpack(w, per_group), np.float32(1), np.float32(-1))
    signs = signs.reshape(groups, outputs // groups, *signs.shape[1:])
    rows, columns = window.output(padded.shape[1], padded.shape[2])
    total = np.zeros((n, rows, columns, groups, outputs // groups), dtype=np.float32)
    for tap, pixels in enumerate(window.taps(padded)):
        grouped = pixels.astype(np.float32).reshape(n, rows, columns, groups, per_group)
        total += np.einsum("nyxgc,goc->nyxgo", grouped, signs[:, :, tap])
    return total.reshape(n, rows, columns, outputs)


def call(
    x: relax.Expr,
    w: Tensor,
    kernel: Shape,
    strides: Shape = (1, 1),
    pads: Shape = (0, 0, 0, 0),
    dilations: Shape = (1, 1),
    groups: Integer = 1,
    pad_value: Integer = 0,
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers, tuples and arrays may be Python's or Relax's."""
    tuples = [arguments.shape(value) for value in (kernel, strides, pads, dilations)]
    numbers = [arguments.integer(value) for value in (groups, pad_value)]
    return arguments.make(RELAX, [x, arguments.constant(w, "uint8"), *tuples, *numbers], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    conv = BinaryConv2d.of(call)
    window, groups, pad_value = conv.window, conv.groups, conv.pad_value
    n, height, width, channels = arguments.static_shape(RELAX, "x", conv.x, 4, "float32")
    outputs, taps, size = arguments.static_shape(RELAX, "w", conv.weights, 3, "uint8")
    arguments.require(pad_value in (-1, 0, 1), RELAX, f"pad_value is {pad_value}, allowed: -1, 0, 1")
    whole = groups >= 1 and channels % groups == 0 and outputs % groups == 0
    arguments.require(whole, RELAX, f"{channels} channels to {outputs} in {groups} groups")
    needed = (window.kernel[0] * window.kernel[1], bitpack.packed_bytes(channels // groups))
    arguments.require((taps, size) == needed, RELAX, f"w has {taps} taps of {size} bytes, needed: {needed}")
    return arguments.tensor_type((n, *window.output(height, width), outputs), "float32")


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize: sums x where the bit is 1, and -x where it is 0."""
    from tvm import te, tirx

    conv = BinaryConv2d.of(call)
    window, groups = conv.window, conv.groups

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        n, height, width, channels = (int(e) for e in x.shape)
        outputs, taps, _ = (int(e) for e in w.shape)
        (step_y, step_x), (dilate_y, dilate_x), (top, left) = window.strides, window.dilations, window.pads[:2]
        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, width), outputs)]
        tap = te.reduce_axis((0, tirx.IntImm("int64", taps)), name="tap")
        channel = te.reduce_axis((0, tirx.IntImm("int64", channels // groups)), name="channel")

        def term(i: tirx.Var, y: tirx.Var, x_: tirx.Var, o: tirx.Var) -> relax.Expr:
            row = y * step_y + tap // window.kernel[1] * dilate_y - top
            column = x_ * step_x + tap % window.kernel[1] * dilate_x - left
            inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
            pixel = x[i, row, column, o // (outputs // groups) * (channels // groups) + channel]
            value = tirx.if_then_else(inside, pixel, tirx.const(float(conv.pad_value), "float32"))
            bit = (w[o, tap, channel // 8] >> (channel % 8).astype("uint8")) & tirx.const(1, "uint8")
            return te.sum(tirx.Select(bit == tirx.const(1, "uint8"), value, -value), axis=[tap, channel])

        return te.compute(sizes, term, name="correlation")

    return builder.call_te(compute, conv.x, conv.weights, primfunc_name_hint="binary_conv2d")
