"""Quantize: float32 images to 8-bit integers, with a border, in rows as conv2d_int8 reads them.

Relax: `R.bnncc.quantize(x, inverse_scale, zero_point, pads, row, dtype)`. x is float32 [N, H, W, C]; the result
[N, top + H + bottom, row] holds in each row the pixels (left of border, W, right of border) one behind the other:

    q = clip(round(x * inverse_scale) + zero_point)      rounded to nearest, ties to even; NaN gives the least integer

Border pixels, and what is left of a row, hold zero_point, which stands for 0.0. `row` is a number of values. dtype is
"uint8" (0 to 255), "int8" (-128 to 127), or "int16", which holds 0 to 255 for machines that do not multiply bytes;
it prints as its number in this list, because TVM moves strings out of calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.window import Pads

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.quantize"
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "int16": (0, 255)}
_TYPES = tuple(LIMITS)


class Parameters(NamedTuple):
    """What a call holds beside its tensor."""

    inverse_scale: float
    zero_point: int
    pads: Pads
    row: int
    dtype: str


def meaning(
    x: npt.NDArray[np.float32],
    *,
    inverse_scale: float,
    zero_point: int,
    pads: Pads = (0, 0, 0, 0),
    row: int,
    dtype: str = "uint8",
) -> npt.NDArray[np.integer[Any]]:
    """float32 [N, H, W, C] -> `dtype` [N, top + H + bottom, row]."""
    n, height, width, channels = x.shape
    top, left, bottom, _ = pads
    low, high = (np.float32(limit - zero_point) for limit in LIMITS[dtype])
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = x * np.float32(inverse_scale)
        steps = np.rint(np.where(scaled > low, np.minimum(scaled, high), low))
    result = np.full((n, top + height + bottom, row), zero_point, dtype=dtype)
    inside = result[:, top : top + height, left * channels : (left + width) * channels]
    inside[:] = (steps + zero_point).astype(dtype).reshape(n, height, -1)
    return result


def call(
    x: Any, inverse_scale: Any, zero_point: Any, pads: Any, row: Any, dtype: Any = "uint8", span: Any = None
) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    kind = arguments.integer(_TYPES.index(dtype) if isinstance(dtype, str) else dtype)
    numbers = [arguments.real(inverse_scale), arguments.integer(zero_point)]
    return arguments.make(RELAX, [x, *numbers, arguments.shape(pads), arguments.integer(row), kind], span)


def parameters(call: relax.Call) -> Parameters:
    """What `call` was given beside its tensor."""
    top, left, bottom, right = arguments.ints(call.args[3])
    pads = (top, left, bottom, right)
    return Parameters(
        float(np.float32(call.args[1].value)), int(call.args[2]), pads, int(call.args[4]), _TYPES[int(call.args[5])]
    )


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType."""
    n, height, width, channels = arguments.static_shape(RELAX, "x", call.args[0], 4, "float32")
    number = int(call.args[5])
    arguments.require(0 <= number < len(_TYPES), RELAX, f"dtype is {number}, allowed: 0 to {len(_TYPES) - 1}")
    inverse_scale, zero_point, (top, left, bottom, right), row, dtype = parameters(call)
    low, high = LIMITS[dtype]
    arguments.require(low <= zero_point <= high, RELAX, f"zero_point is {zero_point}, allowed: {low} to {high}")
    arguments.require(0 < inverse_scale < np.inf, RELAX, f"inverse_scale is {inverse_scale}; it must be positive")
    arguments.require(min(top, left, bottom, right) >= 0, RELAX, "negative pads; crop with a slice instead")
    needed = (left + width + right) * channels
    arguments.require(row >= needed, RELAX, f"rows of {row} values, needed: {needed}")
    return arguments.tensor_type((n, top + height + bottom, row), dtype)


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    inverse_scale, zero_point, (top, left, bottom, _), row, dtype = parameters(call)

    def compute(x: Any) -> Any:
        n, height, width, channels = (int(e) for e in x.shape)
        low, high = (tirx.const(float(limit - zero_point), "float32") for limit in LIMITS[dtype])

        def value(i: Any, y: Any, k: Any) -> Any:
            pixel, channel = k // channels, k % channels
            inside = tirx.all(y >= top, y < top + height, pixel >= left, pixel < left + width)
            scaled = x[i, y - top, pixel - left, channel] * tirx.const(inverse_scale, "float32")
            clipped = tirx.Select(scaled > low, tirx.Min(scaled, high), low)
            steps = tirx.nearbyint(clipped).astype("int32") + zero_point
            return tirx.if_then_else(inside, steps, tirx.const(zero_point, "int32")).astype(dtype)

        sizes = [tirx.IntImm("int64", e) for e in (n, top + height + bottom, row)]
        return te.compute(sizes, value, name="quantized")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="quantize")
