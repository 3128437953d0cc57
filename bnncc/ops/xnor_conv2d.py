"""XnorConv2d: binary convolution of packed bits as xor and popcount, an int32 accumulator for every output.

Relax: `R.bnncc.xnor_conv2d(b, w, offset, row_class, col_class, bit_weight, kernel, ...)`, then strides,
dilations and groups.

    accumulator[n, y, x, o] = offset[row_class[y], col_class[x], o]
                              - bit_weight * sum over the window of popcount(b ^ w)

b is uint8 [N, H, W, B], already padded; w uint8 [O, T, B / groups], T the taps row-major; offset int32 [R, C, O];
row_class int32 [OH] below R and col_class int32 [OW] below C. bit_weight is what one differing bit takes from the
dot product: 2 for +-1 activations (dot = N0 - 2 * popcount), 1 for {0, 1} activations (dot = (N0 + sum of w) / 2 -
popcount). The classes say which taps of an output pixel read the border, for borders whose value no bit can hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.expressions import View, pair
from bnncc.ops.window import Pair, Window

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Shape, Tensor

RELAX = "relax.bnncc.xnor_conv2d"


@dataclass(frozen=True, eq=False)
class XnorConv2d(View):
    """One call. The window has no pads: the bits are padded before."""

    OPERATOR: ClassVar[str] = "bnncc.xnor_conv2d"

    bits: relax.Expr
    weights: relax.Expr
    offset: relax.Expr
    row_class: relax.Expr
    col_class: relax.Expr
    bit_weight: int
    window: Window
    groups: int

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        bits, weights, offset, row_class, col_class, bit_weight, kernel, strides, dilations, groups = call.args
        window = Window(kernel=pair(kernel), strides=pair(strides), dilations=pair(dilations))
        return cls(call, bits, weights, offset, row_class, col_class, int(bit_weight), window, int(groups))


def meaning(
    b: npt.NDArray[np.uint8],
    w: npt.NDArray[np.uint8],
    offset: npt.NDArray[np.int32],
    row_class: npt.NDArray[np.int32],
    col_class: npt.NDArray[np.int32],
    *,
    bit_weight: int,
    kernel: Pair,
    strides: Pair = (1, 1),
    dilations: Pair = (1, 1),
    groups: int = 1,
) -> npt.NDArray[np.int32]:
    """uint8 [N, H, W, B] -> int32 [N, OH, OW, O]."""
    window = Window(kernel=kernel, strides=strides, dilations=dilations)
    outputs, size = w.shape[0], w.shape[2]
    differing = np.zeros((b.shape[0], *window.output(b.shape[1], b.shape[2]), outputs), dtype=np.int32)
    for tap, pixels in enumerate(window.taps(b)):
        grouped = pixels.reshape(*pixels.shape[:3], groups, 1, size)
        weights = w[:, tap].reshape(groups, outputs // groups, size)
        differing += popcount(grouped.astype(np.uint8) ^ weights).reshape(differing.shape)
    return offset[row_class[:, None], col_class[None, :]] - np.int32(bit_weight) * differing


def popcount(words: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The ones in the bytes of the last axis: uint8 [..., B] -> int32 [...]."""
    ones: npt.NDArray[np.int32] = np.bitwise_count(words).sum(axis=-1, dtype=np.int32)
    return ones


def call(
    b: relax.Expr,
    w: Tensor,
    offset: Tensor,
    row_class: Tensor,
    col_class: Tensor,
    bit_weight: Integer,
    kernel: Shape,
    strides: Shape = (1, 1),
    dilations: Shape = (1, 1),
    groups: Integer = 1,
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers, tuples and arrays may be Python's or Relax's."""
    tensors = [b, arguments.constant(w, "uint8")]
    tensors += [arguments.constant(table, "int32") for table in (offset, row_class, col_class)]
    tuples = [arguments.shape(value) for value in (kernel, strides, dilations)]
    return arguments.make(RELAX, [*tensors, arguments.integer(bit_weight), *tuples, arguments.integer(groups)], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    conv = XnorConv2d.of(call)
    bit_weight, window, groups = conv.bit_weight, conv.window, conv.groups
    n, height, width, size = arguments.static_shape(RELAX, "b", conv.bits, 4, "uint8")
    outputs, taps, group_size = arguments.static_shape(RELAX, "w", conv.weights, 3, "uint8")
    rows, columns = window.output(height, width)
    arguments.require(bit_weight in (1, 2), RELAX, f"bit_weight is {bit_weight}, allowed: 1, 2")
    needed = window.kernel[0] * window.kernel[1]
    arguments.require(taps == needed, RELAX, f"w has {taps} taps, the kernel {window.kernel} needs {needed}")
    whole = groups >= 1 and size == groups * group_size and outputs % groups == 0
    arguments.require(whole, RELAX, f"b has {size} bytes, w {outputs} x {group_size} bytes, in {groups} groups")
    offset = arguments.static_shape(RELAX, "offset", conv.offset, 3, "int32")
    arguments.require(offset[2] == outputs, RELAX, f"offset has {offset[2]} channels, needed: {outputs}")
    for name, argument, extent in (("row_class", conv.row_class, rows), ("col_class", conv.col_class, columns)):
        found = arguments.static_shape(RELAX, name, argument, 1, "int32")
        arguments.require(found == (extent,), RELAX, f"{name} has shape {found}, needed: ({extent},)")
    return arguments.tensor_type((n, rows, columns, outputs), "int32")


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    conv = XnorConv2d.of(call)
    window, groups = conv.window, conv.groups

    def compute(b: te.Tensor, w: te.Tensor, offset: te.Tensor, row_class: te.Tensor, col_class: te.Tensor) -> te.Tensor:
        n, height, width, _ = (int(e) for e in b.shape)
        outputs, taps, size = (int(e) for e in w.shape)
        (step_y, step_x), (dilate_y, dilate_x) = window.strides, window.dilations
        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, width), outputs)]
        tap = te.reduce_axis((0, tirx.IntImm("int64", taps)), name="tap")
        byte = te.reduce_axis((0, tirx.IntImm("int64", size)), name="byte")

        def count(i: tirx.Var, y: tirx.Var, x: tirx.Var, o: tirx.Var) -> relax.Expr:
            row = y * step_y + tap // window.kernel[1] * dilate_y
            column = x * step_x + tap % window.kernel[1] * dilate_x
            bits = b[i, row, column, o // (outputs // groups) * size + byte]
            ones = tirx.popcount((bits ^ w[o, tap, byte]).astype("uint32"))
            return te.sum(ones.astype("int32"), axis=[tap, byte])

        differing = te.compute(sizes, count, name="differing")
        return te.compute(
            sizes,
            lambda i, y, x, o: offset[row_class[y], col_class[x], o] - conv.bit_weight * differing[i, y, x, o],
            name="accumulator",
        )

    return builder.call_te(compute, *call.args[:5], primfunc_name_hint="xnor_conv2d")
