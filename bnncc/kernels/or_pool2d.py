"""Bitwise OR over windows of packed pixels, which is the maximum of their signs. Padding holds 0 bits: taps outside
the image are left out. The result may have a border of its own, for the convolution that reads it."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument
from bnncc.kernels.pixel_schedule import PixelKernel, PixelSchedule
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.copies import runs
from bnncc.tir.registers import Expr, ramp, zeros
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg
from bnncc.tir.windows import ImageWindow, Taps, walk_windows


@dataclass(frozen=True)
class OrPool2d(ImageWindow, PixelKernel):
    """Input [N, in_rows, in_width, output.channels]: here the bytes of a pixel are its channels. The epilogue only
    says where the bits go."""

    kind: ClassVar[str] = "or_pool2d"

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return (Argument("packed", "input", "uint8", self.input_shape),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row."""
        assert isinstance(schedule, PixelSchedule)
        out, bits = self.output, epilogue.layout
        size, (top, left, bottom, right) = bits.pixel_bytes, bits.pads
        with IRBuilder() as ib, T.prim_func():
            packed, pooled = arg("packed", "uint8"), arg("pooled", "uint8")
            part = share(out.batch * out.rows)
            part.once(lambda: ep.fill_border(bits, out, pooled))

            def emit(n: Expr, y: Expr, x: Expr, pixels: int, taps: Taps) -> None:
                origin = T.Bind(self.at(n, y, x) * size)
                row = (n * (out.rows + top + bottom) + y + top) * (out.width + left + right)
                to = T.Bind((row + left + x) * size)

                def run(first: Expr, lanes: int) -> None:
                    everything = ramp(0, lanes)
                    totals = zeros(pixels, "uint8", lanes)

                    def tap(i: Expr, j: Expr) -> None:
                        for p, total in enumerate(totals):
                            value = packed[ramp(origin + self.step(i, j, p) * size + first, lanes)]
                            T.buffer_store(total, T.bitwise_or(total[everything], value), [everything])

                    taps.each(tap)
                    for p, total in enumerate(totals):
                        T.buffer_store(pooled, total[everything], [ramp(to + p * size + first, lanes)])

                runs(size, target.vector_bits // 8, run)

            walk_windows(self, schedule.pixels, part, emit)
        return ib.get()
