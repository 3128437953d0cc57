"""Threshold: integer accumulators to packed bits, 1 where lo <= accumulator <= hi.

Relax: `R.bnncc.threshold(accumulator, lo, hi, groups, word_bytes)`. accumulator is int32 [N, H, W, C]; lo and hi are
int32 [C]; lo > hi means never. The result is packed as `pack` packs: uint8 [N, H, W, groups * packed_bytes].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.pack import Packing, compute_packed, pack_groups, packed_type

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Tensor

RELAX = "relax.bnncc.threshold"


@dataclass(frozen=True, eq=False)
class Threshold(Packing):
    """One call; `values` are the accumulators."""

    OPERATOR: ClassVar[str] = "bnncc.threshold"

    lo: relax.Expr
    hi: relax.Expr

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        accumulator, lo, hi, groups, word_bytes = call.args
        return cls(call, accumulator, int(groups), int(word_bytes), lo, hi)


def meaning(
    accumulator: npt.NDArray[np.int32],
    lo: npt.NDArray[np.int32],
    hi: npt.NDArray[np.int32],
    *,
    groups: int = 1,
    word_bytes: int = 1,
) -> npt.NDArray[np.uint8]:
    """int32 [N, H, W, C], int32 [C], int32 [C] -> uint8 [N, H, W, groups * packed_bytes]."""
    return pack_groups((lo <= accumulator) & (accumulator <= hi), groups=groups, word_bytes=word_bytes)


def call(
    accumulator: relax.Expr,
    lo: Tensor,
    hi: Tensor,
    groups: Integer = 1,
    word_bytes: Integer = 1,
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers and arrays may be Python's or Relax's."""
    bounds = [arguments.constant(bound, "int32") for bound in (lo, hi)]
    return arguments.make(RELAX, [accumulator, *bounds, arguments.integer(groups), arguments.integer(word_bytes)], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    threshold = Threshold.of(call)
    shape = arguments.static_shape(RELAX, "accumulator", threshold.values, 4, "int32")
    for name, bound in (("lo", threshold.lo), ("hi", threshold.hi)):
        found = arguments.static_shape(RELAX, name, bound, 1, "int32")
        arguments.require(found == (shape[3],), RELAX, f"{name} has shape {found}, needed: ({shape[3]},)")
    return packed_type(RELAX, shape, threshold)


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import tirx

    threshold = Threshold.of(call)

    def compute(accumulator: te.Tensor, lo: te.Tensor, hi: te.Tensor) -> te.Tensor:
        def bit(n: relax.Expr, y: relax.Expr, x: relax.Expr, c: relax.Expr) -> relax.Expr:
            value = accumulator[n, y, x, c]
            return tirx.all(lo[c] <= value, value <= hi[c])

        return compute_packed(accumulator, threshold, bit)

    return builder.call_te(compute, threshold.values, threshold.lo, threshold.hi, primfunc_name_hint="threshold")
