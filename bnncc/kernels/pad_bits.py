"""A border of constant bits around packed images, for those that no kernel could write with their border at once."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel, images
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.copies import copy
from bnncc.tir.registers import Expr
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg


@dataclass(frozen=True)
class PadBits(Kernel):
    """Input [N, H, W, output.channels]: here the bytes of a pixel are its channels. The epilogue's layout has the
    pads."""

    kind: ClassVar[str] = "pad_bits"

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return (Argument("packed", "input", "uint8", images(self.output)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row."""
        out, bits = self.output, epilogue.layout
        top, left, bottom, right = bits.pads
        row_bytes = out.width * bits.pixel_bytes
        with IRBuilder() as ib, T.prim_func():
            packed, padded = arg("packed", "uint8"), arg("padded", "uint8")
            part = share(out.batch * out.rows)
            part.once(lambda: ep.fill_border(bits, out, padded))

            def move(n: Expr, y: Expr) -> None:
                row = (n * (out.rows + top + bottom) + y + top) * (out.width + left + right) + left
                to = T.Bind(row * bits.pixel_bytes)
                copy(padded, to, packed, T.Bind((n * out.rows + y) * row_bytes), row_bytes, target.vector_bits // 8)

            part.each_row(out.batch, out.rows, move)
        return ib.get()
