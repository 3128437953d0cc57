"""Pack: float32 images to packed bits, 1 where x >= threshold.

Relax: `R.bnncc.pack(x, threshold, groups, word_bytes)`. x is float32 [N, H, W, C]; threshold float32, a scalar or [C];
the result is uint8 [N, H, W, groups * packed_bytes(C / groups, word_bytes)]: every group starts on a whole word.
NaN is below every threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments, bitpack

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.pack"


class Parameters(NamedTuple):
    """The numbers of one call."""

    groups: int
    word_bytes: int


def meaning(
    x: npt.NDArray[np.float32], threshold: npt.NDArray[np.float32] | float, *, groups: int = 1, word_bytes: int = 1
) -> npt.NDArray[np.uint8]:
    """float32 [N, H, W, C] -> uint8 [N, H, W, groups * packed_bytes]."""
    return pack_groups(x >= np.float32(threshold), groups=groups, word_bytes=word_bytes)


def pack_groups(bits: npt.NDArray[np.bool_], *, groups: int, word_bytes: int) -> npt.NDArray[np.uint8]:
    """bool [..., C] -> uint8 [..., groups * packed_bytes(C / groups)], each group packed by itself."""
    grouped = bits.reshape(*bits.shape[:-1], groups, bits.shape[-1] // groups)
    return bitpack.pack(grouped, word_bytes).reshape(*bits.shape[:-1], -1)


def unpack_groups(packed: npt.NDArray[np.uint8], channels: int, *, groups: int) -> npt.NDArray[np.bool_]:
    """Inverse of `pack_groups`: uint8 [..., B] -> bool [..., channels]."""
    grouped = packed.reshape(*packed.shape[:-1], groups, packed.shape[-1] // groups)
    return bitpack.unpack(grouped, channels // groups).reshape(*packed.shape[:-1], channels)


def call(x: Any, threshold: Any = 0.0, groups: Any = 1, word_bytes: Any = 1, span: Any = None) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    operands = [x, arguments.constant(threshold, "float32"), arguments.integer(groups), arguments.integer(word_bytes)]
    return arguments.make(RELAX, operands, span)


def parameters(call: relax.Call) -> Parameters:
    """What `call` was given beside its tensors."""
    return Parameters(groups=int(call.args[2]), word_bytes=int(call.args[3]))


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType."""
    x = arguments.static_shape(RELAX, "x", call.args[0], 4, "float32")
    threshold = arguments.static_shape(RELAX, "threshold", call.args[1], None, "float32")
    groups, word_bytes = parameters(call)
    arguments.require(threshold in ((), (x[3],)), RELAX, f"threshold has shape {threshold}, allowed: () or ({x[3]},)")
    check_packing(RELAX, x[3], groups, word_bytes)
    return arguments.tensor_type((*x[:3], groups * bitpack.packed_bytes(x[3] // groups, word_bytes)), "uint8")


def check_packing(name: str, channels: int, groups: int, word_bytes: int) -> None:
    """ValueError unless the channels divide into the groups and the word is a size there is."""
    arguments.require(groups >= 1 and channels % groups == 0, name, f"{channels} channels in {groups} groups")
    arguments.require(word_bytes in (1, 2, 4, 8), name, f"word_bytes is {word_bytes}, allowed: 1, 2, 4, 8")


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    groups, word_bytes = parameters(call)

    def compute(x: Any, threshold: Any) -> Any:
        def bit(n: Any, y: Any, w: Any, c: Any) -> Any:
            return x[n, y, w, c] >= (threshold[c] if len(threshold.shape) else threshold[()])

        return compute_packed(x.shape, groups, word_bytes, bit)

    return builder.call_te(compute, call.args[0], call.args[1], primfunc_name_hint="pack")


def compute_packed(extents: Any, groups: int, word_bytes: int, bit: Any) -> Any:
    """te.compute of uint8 [N, H, W, B] from `bit(n, y, x, channel)`, which is only asked for real channels."""
    from tvm import te, tirx

    batch, height, width, channels = (int(e) for e in extents)
    per_group = channels // groups
    group_bytes = bitpack.packed_bytes(per_group, word_bytes)

    def byte(n: Any, y: Any, x: Any, b: Any) -> Any:
        total = tirx.const(0, "uint8")
        for position in range(8):
            channel = b % group_bytes * 8 + position
            inside = bit(n, y, x, b // group_bytes * per_group + tirx.min(channel, per_group - 1))
            is_one = tirx.all(channel < per_group, inside)
            total = total | tirx.if_then_else(is_one, tirx.const(1 << position, "uint8"), tirx.const(0, "uint8"))
        return total

    sizes = [tirx.IntImm("int64", e) for e in (batch, height, width, groups * group_bytes)]
    return te.compute(sizes, byte, name="packed")
