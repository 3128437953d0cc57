"""Quantize: float32 images to 8-bit integers, with a border, in rows as conv2d_int8 reads them.

Relax: `R.bnncc.quantize(x, inverse_scale, zero_point, pads, row_elements, dtype)`. x is float32 [N, H, W, C]; the
result [N, top + H + bottom, row_elements] holds in each row the pixels (left of border, W, right of border) one behind
the other:

    q = clip(round(x * inverse_scale) + zero_point)      rounded to nearest, ties to even; NaN gives the least integer

Border pixels, and what is left of a row, hold zero_point, which stands for 0.0. dtype is
"uint8" (0 to 255), "int8" (-128 to 127), or "int16", which holds 0 to 255 for machines that do not multiply bytes;
it prints as its number in this list, because TVM moves strings out of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.expressions import Array, View, pads
from bnncc.ops.window import Pads

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Real, Shape

RELAX = "relax.bnncc.quantize"
Integers = Literal["uint8", "int8", "int16"]
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "int16": (0, 255)}
_TYPES: tuple[Integers, ...] = get_args(Integers)


@dataclass(frozen=True, eq=False)
class Quantize(View):
    """One call; `row_elements` are values in a row of the result."""

    OPERATOR: ClassVar[str] = "bnncc.quantize"

    x: relax.Expr
    inverse_scale: float
    zero_point: int
    pads: Pads
    row_elements: int
    dtype: Integers

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        x, inverse_scale, zero_point, border, row_elements, number = call.args
        scale = float(np.float32(inverse_scale.value))
        return cls(call, x, scale, int(zero_point), pads(border), int(row_elements), _TYPES[int(number)])


def meaning(
    x: npt.NDArray[np.float32],
    *,
    inverse_scale: float,
    zero_point: int,
    pads: Pads = (0, 0, 0, 0),
    row_elements: int,
    dtype: str = "uint8",
) -> Array:
    """float32 [N, H, W, C] -> `dtype` [N, top + H + bottom, row_elements]."""
    n, height, width, channels = x.shape
    top, left, bottom, _ = pads
    low, high = (np.float32(limit - zero_point) for limit in LIMITS[dtype])
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = x * np.float32(inverse_scale)
        steps = np.rint(np.where(scaled > low, np.minimum(scaled, high), low))
    result = np.full((n, top + height + bottom, row_elements), zero_point, dtype=dtype)
    inside = result[:, top : top + height, left * channels : (left + width) * channels]
    inside[:] = (steps + zero_point).astype(dtype).reshape(n, height, -1)
    return result


def call(
    x: relax.Expr,
    inverse_scale: Real,
    zero_point: Integer,
    pads: Shape,
    row_elements: Integer,
    dtype: str | Integer = "uint8",
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    kind = arguments.integer(list(LIMITS).index(dtype) if isinstance(dtype, str) else dtype)
    numbers = [arguments.real(inverse_scale), arguments.integer(zero_point)]
    return arguments.make(RELAX, [x, *numbers, arguments.shape(pads), arguments.integer(row_elements), kind], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    number = int(call.args[-1])
    arguments.require(0 <= number < len(_TYPES), RELAX, f"dtype is {number}, allowed: 0 to {len(_TYPES) - 1}")
    quantize = Quantize.of(call)
    n, height, width, channels = arguments.static_shape(RELAX, "x", quantize.x, 4, "float32")
    inverse_scale, zero_point, dtype = quantize.inverse_scale, quantize.zero_point, quantize.dtype
    (top, left, bottom, right), row_elements = quantize.pads, quantize.row_elements
    low, high = LIMITS[dtype]
    arguments.require(low <= zero_point <= high, RELAX, f"zero_point is {zero_point}, allowed: {low} to {high}")
    arguments.require(0 < inverse_scale < np.inf, RELAX, f"inverse_scale is {inverse_scale}; it must be positive")
    arguments.require(min(top, left, bottom, right) >= 0, RELAX, "negative pads; crop with a slice instead")
    needed = (left + width + right) * channels
    arguments.require(row_elements >= needed, RELAX, f"rows of {row_elements} values, needed: {needed}")
    return arguments.tensor_type((n, top + height + bottom, row_elements), dtype)


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    quantize = Quantize.of(call)
    zero_point, dtype, (top, left, bottom, _) = quantize.zero_point, quantize.dtype, quantize.pads

    def compute(x: te.Tensor) -> te.Tensor:
        n, height, width, channels = (int(e) for e in x.shape)
        low, high = (tirx.const(float(limit - zero_point), "float32") for limit in LIMITS[dtype])

        def value(i: tirx.Var, y: tirx.Var, k: tirx.Var) -> relax.Expr:
            pixel, channel = k // channels, k % channels
            inside = tirx.all(y >= top, y < top + height, pixel >= left, pixel < left + width)
            scaled = x[i, y - top, pixel - left, channel] * tirx.const(quantize.inverse_scale, "float32")
            clipped = tirx.Select(scaled > low, tirx.Min(scaled, high), low)
            steps = tirx.nearbyint(clipped).astype("int32") + zero_point
            return tirx.if_then_else(inside, steps, tirx.const(zero_point, "int32")).astype(dtype)

        sizes = [tirx.IntImm("int64", e) for e in (n, top + height + bottom, quantize.row_elements)]
        return te.compute(sizes, value, name="quantized")

    return builder.call_te(compute, quantize.x, primfunc_name_hint="quantize")
