"""XnorConv2d: binary convolution of packed bits as xor and popcount, an int32 accumulator for every output.

Relax: `R.bnncc.xnor_conv2d(b, w, offset, row_class, col_class, step, kernel, strides, dilations, groups)`.

    accumulator[n, y, x, o] = offset[row_class[y], col_class[x], o] - step * sum over the window of popcount(b ^ w)

b is uint8 [N, H, W, B], already padded; w uint8 [O, T, B / groups], T the taps row-major; offset int32 [R, C, O];
row_class int32 [OH] below R and col_class int32 [OW] below C. step is 2 for +-1 activations (dot = N0 - 2 * popcount)
and 1 for {0, 1} activations (dot = (N0 + sum of w) / 2 - popcount). The classes say which taps of an output pixel read
the border, for borders whose value no bit can hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.window import Pair, Window

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.xnor_conv2d"


class Parameters(NamedTuple):
    """The numbers of one call. The window has no pads: the bits are padded before."""

    step: int
    window: Window
    groups: int


def meaning(
    b: npt.NDArray[np.uint8],
    w: npt.NDArray[np.uint8],
    offset: npt.NDArray[np.int32],
    row_class: npt.NDArray[np.int32],
    col_class: npt.NDArray[np.int32],
    *,
    step: int,
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
    return offset[row_class[:, None], col_class[None, :]] - np.int32(step) * differing


def popcount(words: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The ones in the bytes of the last axis: uint8 [..., B] -> int32 [...]."""
    ones: npt.NDArray[np.int32] = np.bitwise_count(words).sum(axis=-1, dtype=np.int32)
    return ones


def call(
    b: Any,
    w: Any,
    offset: Any,
    row_class: Any,
    col_class: Any,
    step: Any,
    kernel: Any,
    strides: Any = (1, 1),
    dilations: Any = (1, 1),
    groups: Any = 1,
    span: Any = None,
) -> relax.Call:
    """The Relax call; numbers, tuples and arrays may be Python's or Relax's."""
    tensors = [b, arguments.constant(w, "uint8")]
    tensors += [arguments.constant(table, "int32") for table in (offset, row_class, col_class)]
    tuples = [arguments.shape(value) for value in (kernel, strides, dilations)]
    return arguments.make(RELAX, [*tensors, arguments.integer(step), *tuples, arguments.integer(groups)], span)


def parameters(call: relax.Call) -> Parameters:
    """What `call` was given beside its tensors."""
    kernel, strides, dilations = (arguments.ints(argument) for argument in call.args[6:9])
    window = Window(
        kernel=(kernel[0], kernel[1]), strides=(strides[0], strides[1]), dilations=(dilations[0], dilations[1])
    )
    return Parameters(step=int(call.args[5]), window=window, groups=int(call.args[9]))


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType."""
    n, height, width, size = arguments.static_shape(RELAX, "b", call.args[0], 4, "uint8")
    outputs, taps, group_size = arguments.static_shape(RELAX, "w", call.args[1], 3, "uint8")
    step, window, groups = parameters(call)
    rows, columns = window.output(height, width)
    arguments.require(step in (1, 2), RELAX, f"step is {step}, allowed: 1, 2")
    needed = window.kernel[0] * window.kernel[1]
    arguments.require(taps == needed, RELAX, f"w has {taps} taps, the kernel {window.kernel} needs {needed}")
    whole = groups >= 1 and size == groups * group_size and outputs % groups == 0
    arguments.require(whole, RELAX, f"b has {size} bytes, w {outputs} x {group_size} bytes, in {groups} groups")
    offset = arguments.static_shape(RELAX, "offset", call.args[2], 3, "int32")
    arguments.require(offset[2] == outputs, RELAX, f"offset has {offset[2]} channels, needed: {outputs}")
    for name, argument, extent in (("row_class", call.args[3], rows), ("col_class", call.args[4], columns)):
        found = arguments.static_shape(RELAX, name, argument, 1, "int32")
        arguments.require(found == (extent,), RELAX, f"{name} has shape {found}, needed: ({extent},)")
    return arguments.tensor_type((n, rows, columns, outputs), "int32")


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    step, window, groups = parameters(call)

    def compute(b: Any, w: Any, offset: Any, row_class: Any, col_class: Any) -> Any:
        n, height, width, _ = (int(e) for e in b.shape)
        outputs, taps, size = (int(e) for e in w.shape)
        (step_y, step_x), (dilate_y, dilate_x) = window.strides, window.dilations
        sizes = [tirx.IntImm("int64", e) for e in (n, *window.output(height, width), outputs)]
        tap = te.reduce_axis((0, tirx.IntImm("int64", taps)), name="tap")
        byte = te.reduce_axis((0, tirx.IntImm("int64", size)), name="byte")

        def count(i: Any, y: Any, x: Any, o: Any) -> Any:
            row = y * step_y + tap // window.kernel[1] * dilate_y
            column = x * step_x + tap % window.kernel[1] * dilate_x
            bits = b[i, row, column, o // (outputs // groups) * size + byte]
            ones = tirx.popcount((bits ^ w[o, tap, byte]).astype("uint32"))
            return te.sum(ones.astype("int32"), axis=[tap, byte])

        differing = te.compute(sizes, count, name="differing")
        return te.compute(
            sizes,
            lambda i, y, x, o: offset[row_class[y], col_class[x], o] - step * differing[i, y, x, o],
            name="accumulator",
        )

    return builder.call_te(compute, *call.args[:5], primfunc_name_hint="xnor_conv2d")
