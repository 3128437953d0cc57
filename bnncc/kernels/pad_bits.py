"""A border of constant bits around packed images, for those that no kernel could write with their border at once."""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.copies import copy
from bnncc.tir.registers import Expr
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg


@dataclass(frozen=True)
class Shape:
    """Input [N, H, W, bits.pixel_bytes], whose extents (without border) are those of `output`; `bits` has the pads."""

    output: ep.Geometry
    bits: ep.BitLayout


def build(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The kernel: (packed, padded, begin, end) -> 0. A unit is a row."""
    out, (top, left, bottom, right) = shape.output, shape.bits.pads
    row_bytes = out.width * shape.bits.pixel_bytes
    with IRBuilder() as ib, T.prim_func():
        packed, padded = arg("packed", "uint8"), arg("padded", "uint8")
        part = share(out.batch * out.rows)
        part.once(lambda: ep.fill_border(shape.bits, out, padded))

        def move(n: Expr, y: Expr) -> None:
            row = (n * (out.rows + top + bottom) + y + top) * (out.width + left + right) + left
            to = T.Bind(row * shape.bits.pixel_bytes)
            copy(padded, to, packed, T.Bind((n * out.rows + y) * row_bytes), row_bytes, target.vector_bits // 8)

        part.each_row(out.batch, out.rows, move)
    return ib.get()
