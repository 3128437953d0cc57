"""Transposing float32 images: NCHW to NHWC or back, each image a matrix of channels by pixels."""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir.registers import Expr, load, ramp
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, slice_count

_BLOCK = 8  # rows and columns of what is transposed at a time: parts of cache lines that are read and written once


@dataclass(frozen=True)
class Shape:
    """Input [batch, rows, columns], output [batch, columns, rows]. NCHW to NHWC: rows = C, columns = H * W."""

    batch: int
    rows: int
    columns: int


def build(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, output, begin, end) -> 0. A unit is `_BLOCK` columns of one image."""
    with IRBuilder() as ib, T.prim_func():
        inputs, output = arg("input", "float32"), arg("output", "float32")
        blocks = slice_count(shape.columns, _BLOCK)
        part = share(shape.batch * blocks)
        with T.serial(0, shape.batch) as n:
            image = T.Bind(n * (shape.rows * shape.columns))

            def by_columns(column: Expr, _: int, columns: int) -> None:
                def block(row: Expr, _: int, rows: int) -> None:
                    first = T.Bind(image + row * shape.columns + column)
                    to = T.Bind(image + column * shape.rows + row)
                    if rows == _BLOCK:
                        for j in range(columns):
                            steps = tirx.Ramp(first + j, tirx.IntImm("int32", shape.columns), rows)
                            T.buffer_store(output, inputs[steps], [ramp(to + j * shape.rows, rows)])
                        return
                    lines = [load(inputs, first + i * shape.columns, _BLOCK, columns) for i in range(rows)]
                    for j in range(columns):
                        for i, line in enumerate(lines):
                            value = tirx.Shuffle([line], [tirx.const(j, "int32")])
                            T.buffer_store(output, value, [to + j * shape.rows + i])

                each_slice(shape.rows, _BLOCK, block)

            each_slice(shape.columns, _BLOCK, by_columns, part.of(n * blocks, blocks))
    return ib.get()
