"""Transposing float32 images: NCHW to NHWC or back, each image a matrix of channels by pixels."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, ramp
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, slice_count

_BLOCK = 8  # rows and columns of what is transposed at a time: parts of cache lines that are read and written once


@dataclass(frozen=True)
class Transpose(Kernel):
    """Input [N, C, columns], output [N, columns, C] with the N and C of `output` and columns = its other extents
    together. NCHW to NHWC: C channels of H * W pixels; back: C pixels of `columns` channels."""

    kind: ClassVar[str] = "transpose"

    @property
    def columns(self) -> int:
        """Columns of one matrix of the input."""
        return self.output.rows * self.output.width

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        shape = (self.output.batch, self.output.channels, self.columns)
        return (Argument("input", "input", "float32", shape),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is `_BLOCK` columns of one image."""
        batch, line, stride = self.output.batch, self.output.channels, self.columns
        with IRBuilder() as ib, T.prim_func():
            inputs, output = arg("input", "float32"), arg("output", "float32")
            blocks = slice_count(stride, _BLOCK)
            part = share(batch * blocks)
            with T.serial(0, batch) as n:
                image = T.Bind(n * (line * stride))

                def by_columns(column: Expr, _: int, columns: int) -> None:
                    def block(row: Expr, _: int, rows: int) -> None:
                        first = T.Bind(image + row * stride + column)
                        to = T.Bind(image + column * line + row)
                        if rows == _BLOCK:
                            for j in range(columns):
                                steps = tirx.Ramp(first + j, tirx.IntImm("int32", stride), rows)
                                T.buffer_store(output, inputs[steps], [ramp(to + j * line, rows)])
                            return
                        lines = [load(inputs, first + i * stride, _BLOCK, columns) for i in range(rows)]
                        for j in range(columns):
                            for i, values in enumerate(lines):
                                value = tirx.Shuffle([values], [tirx.const(j, "int32")])
                                T.buffer_store(output, value, [to + j * line + i])

                    each_slice(line, _BLOCK, block)

                each_slice(stride, _BLOCK, by_columns, part.of(n * blocks, blocks))
        return ib.get()
