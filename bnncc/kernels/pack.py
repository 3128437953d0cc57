"""Packing into any layout of bits, also those that an epilogue cannot pack into: groups of any number of channels.

Each byte is made of the (at most) eight channels of its group, wherever they lie.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel, images
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, bits_of, load, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, arg


@dataclass(frozen=True)
class Pack(Kernel):
    """Input [N, H, W, C] of the extents `output`; the epilogue only says where the bits go.

    dtype: "float32": bit = x >= threshold, or x > threshold if `strict`; "int32": bit = lo <= x <= hi.
    threshold: the same for all channels; None for float32 when each has its own, and for int32.
    """

    kind: ClassVar[str] = "pack"

    dtype: Literal["float32", "int32"] = "float32"
    threshold: float | None = 0.0
    strict: bool = False

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        """The input, then threshold float32 [C], or lo and hi int32 [C], or nothing where there is one number."""
        names = ["lo", "hi"] if self.dtype == "int32" else ["threshold"] if self.threshold is None else []
        limits = (Argument(name, "constant", self.dtype, (self.output.channels,)) for name in names)
        return (Argument("input", "input", self.dtype, images(self.output)), *limits)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row."""
        out, bits = self.output, epilogue.layout
        per_group = bits.channels // bits.groups
        top, left, bottom, right = bits.pads
        with IRBuilder() as ib, T.prim_func():
            inputs, *limits = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            packed = arg("packed", "uint8")
            part = share(out.batch * out.rows)
            part.once(lambda: ep.emit_borders(epilogue, out, [packed]))

            def pixel(n: Expr, y: Expr, x: Expr) -> None:
                at = T.Bind(((n * out.rows + y) * out.width + x) * out.channels)
                row = (n * (out.rows + top + bottom) + y + top) * (out.width + left + right)
                to = T.Bind((row + x + left) * bits.pixel_bytes)
                with T.serial(0, bits.groups) as group:

                    def byte(number: Expr, valid: int) -> None:
                        channel = T.Bind(group * per_group + number * SLICE)
                        value = load(inputs, at + channel, SLICE, valid)
                        bounds = [load(limit, channel, SLICE, valid) for limit in limits]
                        if self.dtype == "int32":
                            bit = T.bitwise_and(value >= bounds[0], value <= bounds[1])
                        else:
                            limit = bounds[0] if bounds else splat(tirx.const(self.threshold, "float32"), SLICE)
                            bit = value > limit if self.strict else value >= limit
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
