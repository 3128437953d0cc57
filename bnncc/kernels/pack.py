"""Packing into any layout of bits, also those that an epilogue cannot pack into: groups of any number of channels.

Each byte is made of the (at most) eight channels of its group, wherever they lie.
"""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, bits_of, load, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, arg


@dataclass(frozen=True)
class Shape:
    """Input [N, H, W, C] of the extents `output`; the packed result has the layout `bits`.

    dtype: "float32": bit = x >= threshold; "int32": bit = lo <= x <= hi.
    threshold: the same for all channels; None for float32 when each has its own, and for int32.
    """

    output: ep.Geometry
    bits: ep.BitLayout
    dtype: str = "float32"
    threshold: float | None = 0.0


def build(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, [threshold float32 [C] | lo int32 [C], hi int32 [C]], packed uint8, begin, end) -> 0; a
    float32 input with a scalar threshold has nothing between. A unit is a row."""
    out, bits = shape.output, shape.bits
    per_group = bits.channels // bits.groups
    top, left, bottom, right = bits.pads
    names = ["lo", "hi"] if shape.dtype == "int32" else ["threshold"] if shape.threshold is None else []
    with IRBuilder() as ib, T.prim_func():
        inputs = arg("input", shape.dtype)
        limits = [arg(name, shape.dtype) for name in names]
        packed = arg("packed", "uint8")
        part = share(out.batch * out.rows)
        part.once(lambda: ep.emit_borders(ep.Epilogue(outputs=(ep.Output(0, "uint8", bits),)), out, [packed]))

        def pixel(n: Expr, y: Expr, x: Expr) -> None:
            at = T.Bind(((n * out.rows + y) * out.width + x) * out.channels)
            row = (n * (out.rows + top + bottom) + y + top) * (out.width + left + right)
            to = T.Bind((row + x + left) * bits.pixel_bytes)
            with T.serial(0, bits.groups) as group:

                def byte(number: Expr, valid: int) -> None:
                    channel = T.Bind(group * per_group + number * SLICE)
                    value = load(inputs, at + channel, SLICE, valid)
                    bounds = [load(limit, channel, SLICE, valid) for limit in limits]
                    if shape.dtype == "int32":
                        bit = T.bitwise_and(value >= bounds[0], value <= bounds[1])
                    elif bounds:
                        bit = value >= bounds[0]
                    else:
                        bit = value >= splat(tirx.const(shape.threshold, "float32"), SLICE)
                    T.buffer_store(packed, bits_of(bit, SLICE, valid), [to + group * bits.group_bytes + number])

                if per_group >= SLICE:
                    with T.serial(0, per_group // SLICE) as number:
                        byte(number, SLICE)
                if per_group % SLICE:
                    byte(tirx.const(per_group // SLICE, "int32"), per_group % SLICE)

        def row(n: Expr, y: Expr) -> None:
            with T.serial(0, out.width) as x:
                pixel(n, y, x)

        part.each_row(out.batch, out.rows, row)
    return ib.get()
