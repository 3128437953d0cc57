"""Bitwise OR over windows of packed pixels, which is the maximum of their signs. Padding holds 0 bits: taps outside
the image are left out. The result may have a border of its own, for the convolution that reads it."""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.copies import runs
from bnncc.tir.registers import Expr, local, ramp, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg
from bnncc.tir.windows import Taps, Window, walk_windows

_PIXELS = 4  # computed together


@dataclass(frozen=True, kw_only=True)
class Shape(Window):
    """Input [N, in_rows, in_width, bits.pixel_bytes]; the output has the layout `bits`, whose pads are its border."""

    bits: ep.BitLayout


def build(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The kernel: (packed, pooled, begin, end) -> 0. A unit is a row."""
    out, size = shape.output, shape.bits.pixel_bytes
    top, left, bottom, right = shape.bits.pads
    with IRBuilder() as ib, T.prim_func():
        packed, pooled = arg("packed", "uint8"), arg("pooled", "uint8")
        part = share(out.batch * out.rows)
        part.once(lambda: ep.fill_border(shape.bits, out, pooled))

        def emit(n: Expr, y: Expr, x: Expr, pixels: int, taps: Taps) -> None:
            origin = T.Bind(shape.at(n, y, x) * size)
            row = (n * (out.rows + top + bottom) + y + top) * (out.width + left + right)
            to = T.Bind((row + left + x) * size)

            def run(first: Expr, lanes: int) -> None:
                everything = ramp(0, lanes)
                totals = [local("uint8", lanes) for _ in range(pixels)]
                for total in totals:
                    T.buffer_store(total, splat(tirx.const(0, "uint8"), lanes), [everything])

                def tap(i: Expr, j: Expr) -> None:
                    for p, total in enumerate(totals):
                        value = packed[ramp(origin + shape.step(i, j, p) * size + first, lanes)]
                        T.buffer_store(total, T.bitwise_or(total[everything], value), [everything])

                taps.each(tap)
                for p, total in enumerate(totals):
                    T.buffer_store(pooled, total[everything], [ramp(to + p * size + first, lanes)])

            runs(size, target.vector_bits // 8, run)

        walk_windows(shape, _PIXELS, part, emit)
    return ib.get()
