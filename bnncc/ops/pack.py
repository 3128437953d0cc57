"""Pack: float32 images to packed bits, 1 where x >= threshold, or where x > threshold if `strict`.

Strictly above is not at least the next float: 32-bit ARM takes the float after 0 for 0, and infinity has none after it.

Relax: `R.bnncc.pack(x, threshold, groups, word_bytes, strict)`. x is float32 [N, H, W, C]; threshold float32, a scalar
or [C]; strict 0 (default) or 1; the result is uint8 [N, H, W, groups * packed_bytes(C / groups, word_bytes)]: every
group starts on a whole word. NaN is below every threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.ops import arguments
from bnncc.ops.expressions import View

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Tensor

RELAX = "relax.bnncc.pack"


@dataclass(frozen=True, eq=False)
class Packing(View):
    """What the operators that pack have in common: the values that are compared, and how their bits lie."""

    values: relax.Expr
    groups: int
    word_bytes: int


@dataclass(frozen=True, eq=False)
class Pack(Packing):
    """One call."""

    OPERATOR: ClassVar[str] = "bnncc.pack"

    threshold: relax.Expr
    strict: bool

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        x, threshold, groups, word_bytes, strict = call.args
        return cls(call, x, int(groups), int(word_bytes), threshold, bool(int(strict)))


def meaning(
    x: npt.NDArray[np.float32],
    threshold: npt.NDArray[np.float32] | float,
    *,
    groups: int = 1,
    word_bytes: int = 1,
    strict: bool = False,
) -> npt.NDArray[np.uint8]:
    """float32 [N, H, W, C] -> uint8 [N, H, W, groups * packed_bytes]."""
    return pack_groups(ones(x, np.float32(threshold), strict=strict), groups=groups, word_bytes=word_bytes)


def ones(
    x: npt.NDArray[np.float32], threshold: npt.NDArray[np.float32] | np.float32, *, strict: bool
) -> npt.NDArray[np.bool_]:
    """Which values become 1; shapes broadcast."""
    return np.asarray(x > threshold if strict else x >= threshold)


def pack_groups(bits: npt.NDArray[np.bool_], *, groups: int, word_bytes: int) -> npt.NDArray[np.uint8]:
    """bool [..., C] -> uint8 [..., groups * packed_bytes(C / groups)], each group packed by itself."""
    grouped = bits.reshape(*bits.shape[:-1], groups, bits.shape[-1] // groups)
    return bitpack.pack(grouped, word_bytes).reshape(*bits.shape[:-1], -1)


def unpack_groups(packed: npt.NDArray[np.uint8], channels: int, *, groups: int) -> npt.NDArray[np.bool_]:
    """Inverse of `pack_groups`: uint8 [..., B] -> bool [..., channels]."""
    grouped = packed.reshape(*packed.shape[:-1], groups, packed.shape[-1] // groups)
    return bitpack.unpack(grouped, channels // groups).reshape(*packed.shape[:-1], channels)


def call(
    x: relax.Expr,
    threshold: Tensor = 0.0,
    groups: Integer = 1,
    word_bytes: Integer = 1,
    strict: Integer = 0,
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    numbers = (arguments.integer(number) for number in (groups, word_bytes, strict))
    return arguments.make(RELAX, [x, arguments.constant(threshold, "float32"), *numbers], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    pack = Pack.of(call)
    x = arguments.static_shape(RELAX, "x", pack.values, 4, "float32")
    threshold = arguments.static_shape(RELAX, "threshold", pack.threshold, None, "float32")
    arguments.require(threshold in ((), (x[3],)), RELAX, f"threshold has shape {threshold}, allowed: () or ({x[3]},)")
    return packed_type(RELAX, x, pack)


def packed_type(name: str, values: tuple[int, ...], packing: Packing) -> relax.TensorType:
    """The type of packed values [N, H, W, C]. ValueError unless the channels divide into the groups and the word is a
    size there is."""
    channels, groups, word_bytes = values[3], packing.groups, packing.word_bytes
    arguments.require(groups >= 1 and channels % groups == 0, name, f"{channels} channels in {groups} groups")
    arguments.require(word_bytes in (1, 2, 4, 8), name, f"word_bytes is {word_bytes}, allowed: 1, 2, 4, 8")
    size = groups * bitpack.packed_bytes(channels // groups, word_bytes)
    return arguments.tensor_type((*values[:3], size), "uint8")


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    pack = Pack.of(call)

    def compute(x: te.Tensor, threshold: te.Tensor) -> te.Tensor:
        def bit(n: relax.Expr, y: relax.Expr, w: relax.Expr, c: relax.Expr) -> relax.Expr:
            limit = threshold[c] if len(threshold.shape) else threshold[()]
            return x[n, y, w, c] > limit if pack.strict else x[n, y, w, c] >= limit

        return compute_packed(x, pack, bit)

    return builder.call_te(compute, pack.values, pack.threshold, primfunc_name_hint="pack")


def compute_packed(values: te.Tensor, packing: Packing, bit: Callable[..., relax.Expr]) -> te.Tensor:
    """te.compute of uint8 [N, H, W, B] from `bit(n, y, x, channel)`, which is only asked for real channels."""
    from tvm import te, tirx

    batch, height, width, channels = (int(e) for e in values.shape)
    per_group = channels // packing.groups
    group_bytes = bitpack.packed_bytes(per_group, packing.word_bytes)

    def byte(n: tirx.Var, y: tirx.Var, x: tirx.Var, b: tirx.Var) -> relax.Expr:
        total = tirx.const(0, "uint8")
        for position in range(8):
            channel = b % group_bytes * 8 + position
            inside = bit(n, y, x, b // group_bytes * per_group + tirx.min(channel, per_group - 1))
            is_one = tirx.all(channel < per_group, inside)
            total = total | tirx.if_then_else(is_one, tirx.const(1 << position, "uint8"), tirx.const(0, "uint8"))
        return total

    sizes = [tirx.IntImm("int64", e) for e in (batch, height, width, packing.groups * group_bytes)]
    return te.compute(sizes, byte, name="packed")
