"""PadBits: a border of constant bits around a packed image.

Relax: `R.bnncc.pad_bits(b, pads, pad_bit, channels, groups)`. b is uint8 [N, H, W, B]; pads are (top, left, bottom,
right) pixels; every real channel of a border pixel holds `pad_bit`, the tail bits stay 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.ops import arguments
from bnncc.ops.expressions import View, pads
from bnncc.ops.window import Pads

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Shape

RELAX = "relax.bnncc.pad_bits"


@dataclass(frozen=True, eq=False)
class PadBits(View):
    """One call; `channels` are those of all groups together."""

    OPERATOR: ClassVar[str] = "bnncc.pad_bits"

    bits: relax.Expr
    pads: Pads
    pad_bit: int
    channels: int
    groups: int

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        bits, border, pad_bit, channels, groups = call.args
        return cls(call, bits, pads(border), int(pad_bit), int(channels), int(groups))


def border_pixel(pixel_bytes: int, *, pad_bit: int, channels: int, groups: int) -> npt.NDArray[np.uint8]:
    """The bytes uint8 [B] of one border pixel."""
    bits = np.full((groups, channels // groups), bool(pad_bit))
    return bitpack.pack(bits, pixel_bytes // groups).reshape(-1)


def meaning(
    b: npt.NDArray[np.uint8], *, pads: Pads, pad_bit: int, channels: int, groups: int = 1
) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, B] -> uint8 [N, top + H + bottom, left + W + right, B]."""
    (n, height, width, size), (top, left, bottom, right) = b.shape, pads
    padded = np.empty((n, top + height + bottom, left + width + right, size), dtype=np.uint8)
    padded[:] = border_pixel(size, pad_bit=pad_bit, channels=channels, groups=groups)
    padded[:, top : top + height, left : left + width] = b
    return padded


def call(
    b: relax.Expr,
    pads: Shape,
    pad_bit: Integer,
    channels: Integer,
    groups: Integer = 1,
    span: tvm.ir.Span | None = None,
) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    numbers = [arguments.integer(value) for value in (pad_bit, channels, groups)]
    return arguments.make(RELAX, [b, arguments.shape(pads), *numbers], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    padding = PadBits.of(call)
    (top, left, bottom, right), pad_bit = padding.pads, padding.pad_bit
    n, height, width, size = arguments.static_shape(RELAX, "b", padding.bits, 4, "uint8")
    arguments.require(min(top, left, bottom, right) >= 0, RELAX, "negative pads; crop with a slice instead")
    arguments.require(pad_bit in (0, 1), RELAX, f"pad_bit is {pad_bit}, allowed: 0, 1")
    check_bytes(RELAX, size, padding.channels, padding.groups)
    return arguments.tensor_type((n, top + height + bottom, left + width + right, size), "uint8")


def check_bytes(name: str, size: int, channels: int, groups: int) -> None:
    """ValueError unless `size` bytes a pixel can hold that many channels in that many groups of equal size."""
    whole = groups >= 1 and channels % groups == 0 and size % groups == 0
    arguments.require(whole, name, f"{size} bytes and {channels} channels in {groups} groups")
    needed = bitpack.packed_bytes(channels // groups)
    arguments.require(size // groups >= needed, name, f"{size // groups} bytes a group, needed: {needed}")


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    padding = PadBits.of(call)
    top, left, bottom, right = padding.pads

    def compute(b: te.Tensor) -> te.Tensor:
        n, height, width, size = (int(e) for e in b.shape)
        border = border_pixel(size, pad_bit=padding.pad_bit, channels=padding.channels, groups=padding.groups)

        def border_byte(index: tirx.Var) -> relax.Expr:
            value = tirx.const(0, "uint8")
            for byte in range(size):
                value = tirx.Select(index == byte, tirx.const(int(border[byte]), "uint8"), value)
            return value

        def pixel(i: tirx.Var, y: tirx.Var, x: tirx.Var, k: tirx.Var) -> relax.Expr:
            inside = tirx.all(y >= top, y < top + height, x >= left, x < left + width)
            return tirx.if_then_else(inside, b[i, y - top, x - left, k], border_byte(k))

        sizes = [tirx.IntImm("int64", e) for e in (n, top + height + bottom, left + width + right, size)]
        return te.compute(sizes, pixel, name="padded")

    return builder.call_te(compute, padding.bits, primfunc_name_hint="pad_bits")
