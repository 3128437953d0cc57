"""Threshold: integer accumulators to packed bits, 1 where lo <= accumulator <= hi.

Relax: `R.bnncc.threshold(accumulator, lo, hi, groups, word_bytes)`. accumulator is int32 [N, H, W, C]; lo and hi are
int32 [C]; lo > hi means never. The result is packed as `pack` packs: uint8 [N, H, W, groups * packed_bytes].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments, bitpack
from bnncc.ops.pack import Parameters, check_packing, compute_packed, pack_groups

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.threshold"


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


def call(accumulator: Any, lo: Any, hi: Any, groups: Any = 1, word_bytes: Any = 1, span: Any = None) -> relax.Call:
    """The Relax call; numbers and arrays may be Python's or Relax's."""
    bounds = [arguments.constant(bound, "int32") for bound in (lo, hi)]
    return arguments.make(RELAX, [accumulator, *bounds, arguments.integer(groups), arguments.integer(word_bytes)], span)


def parameters(call: relax.Call) -> Parameters:
    """What `call` was given beside its tensors."""
    return Parameters(groups=int(call.args[3]), word_bytes=int(call.args[4]))


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType."""
    shape = arguments.static_shape(RELAX, "accumulator", call.args[0], 4, "int32")
    for name, bound in (("lo", call.args[1]), ("hi", call.args[2])):
        found = arguments.static_shape(RELAX, name, bound, 1, "int32")
        arguments.require(found == (shape[3],), RELAX, f"{name} has shape {found}, needed: ({shape[3]},)")
    groups, word_bytes = parameters(call)
    check_packing(RELAX, shape[3], groups, word_bytes)
    size = groups * bitpack.packed_bytes(shape[3] // groups, word_bytes)
    return arguments.tensor_type((*shape[:3], size), "uint8")


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import tirx

    groups, word_bytes = parameters(call)

    def compute(accumulator: Any, lo: Any, hi: Any) -> Any:
        def bit(n: Any, y: Any, x: Any, c: Any) -> Any:
            value = accumulator[n, y, x, c]
            return tirx.all(lo[c] <= value, value <= hi[c])

        return compute_packed(accumulator.shape, groups, word_bytes, bit)

    return builder.call_te(compute, *call.args[:3], primfunc_name_hint="threshold")
