"""float32 images to 8-bit integers, with a border, in rows that conv2d_int8 reads: one pass over the input.

Rounding is to the nearest integer, ties to even, by adding 1.5 * 2^23: the sum's last bits are the integer. So three
operations of floats and one of integers do it on every machine, and NaN becomes the lowest value.
"""

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.ops.quantize import LIMITS
from bnncc.targets.target import Target
from bnncc.tir.copies import fill, runs
from bnncc.tir.registers import Buffer, Expr, cast, load, ramp, splat
from bnncc.tir.shares import share, within
from bnncc.tir.tiles import arg, float_lanes

_MAGIC = 1.5 * 2**23
_MAGIC_BITS = 0x4B400000


@dataclass(frozen=True)
class Shape:
    """Input float32 [N, rows, width, channels], or [N, channels, rows, width] when `nchw`; output [N, top + rows +
    bottom, row] of `dtype`. pads are (top, left, bottom, right) pixels of `zero_point`; so is what follows them in a
    row. inverse_scale: steps of the integer in 1.0, a float32."""

    batch: int
    rows: int
    width: int
    channels: int
    pads: tuple[int, int, int, int]
    row: int
    inverse_scale: float
    zero_point: int
    dtype: str
    nchw: bool = False


def interleaves(channels: int) -> bool:
    """Whether the kernel reads NCHW images of so many channels."""
    return channels <= 4


def build(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, output, begin, end) -> 0. A unit is a row of the output."""
    lanes = float_lanes(target)
    top, left, bottom, _ = shape.pads
    in_pixels = shape.rows * shape.width
    kept = shape.width * shape.channels
    with IRBuilder() as ib, T.prim_func():
        inputs, output = arg("input", "float32"), arg("output", shape.dtype)
        rows = top + shape.rows + bottom
        part = share(shape.batch * rows)
        with T.serial(0, shape.batch) as n:
            whole = part.of(n * rows, rows)

            def border(begin: int, end: int) -> None:
                with within(whole, begin, end) as y:
                    fill(output, T.Bind((n * rows + y) * shape.row), shape.zero_point, shape.row, 4 * lanes)

            border(0, top)
            with within(whole, top, top + shape.rows) as y:
                at = T.Bind((n * rows + y) * shape.row)
                fill(output, at, shape.zero_point, left * shape.channels, 4 * lanes)
                start = T.Bind(at + left * shape.channels)
                if shape.nchw and shape.channels > 1:
                    first = T.Bind(n * (in_pixels * shape.channels) + (y - top) * shape.width)
                    _interleave(shape, inputs, first, in_pixels, output, start, lanes)
                else:
                    _row(shape, inputs, T.Bind((n * shape.rows + y - top) * kept), output, start, kept, lanes)
                end = T.Bind(start + kept)
                fill(output, end, shape.zero_point, shape.row - left * shape.channels - kept, 4 * lanes)
            border(top + shape.rows, rows)
    return ib.get()


def _row(shape: Shape, source: Buffer, first: Expr, output: Buffer, at: Expr, count: int, lanes: int) -> None:
    """`count` values that follow one another in both."""

    def move(here: Expr, width: int) -> None:
        value = _quantised(load(source, first + here, width), shape, width)
        T.buffer_store(output, cast(value, shape.dtype, width), [ramp(at + here, width)])

    runs(count, lanes, move)


def _interleave(shape: Shape, source: Buffer, first: Expr, plane: int, output: Buffer, at: Expr, lanes: int) -> None:
    """A row of each plane becomes a row of pixels."""

    def move(here: Expr, width: int) -> None:
        planes = [
            _quantised(load(source, first + c * plane + here, width), shape, width) for c in range(shape.channels)
        ]
        to = T.Bind(at + here * shape.channels)
        if width == 1 or shape.dtype == "int16":
            for c, values in enumerate(planes):
                steps = tirx.Ramp(to + c, tirx.IntImm("int32", shape.channels), width) if width > 1 else to + c
                T.buffer_store(output, cast(values, shape.dtype, width), [steps])
            return
        # The bytes of a pixel in one 32-bit lane, then the lanes without the bytes that are too many.
        word = T.bitwise_and(planes[0], splat(tirx.const(255, "int32"), width))
        for c, values in enumerate(planes[1:], 1):
            byte = T.bitwise_and(values, splat(tirx.const(255, "int32"), width))
            word = T.bitwise_or(word, T.shift_left(byte, splat(tirx.const(8 * c, "int32"), width)))
        data = T.reinterpret(f"{shape.dtype}x{4 * width}", T.Bind(word))
        if shape.channels < 4:
            kept = [tirx.const(4 * p + c, "int32") for p in range(width) for c in range(shape.channels)]
            data = tirx.Shuffle([data], kept)
        T.buffer_store(output, data, [ramp(to, shape.channels * width)])

    runs(shape.width, lanes, move)


def _quantised(x: Expr, shape: Shape, lanes: int) -> Expr:
    """The integers of float32 values, as int32."""

    def scalar(value: float) -> Expr:
        return splat(tirx.const(value, "float32"), lanes)

    low, high = (float(limit - shape.zero_point) for limit in LIMITS[shape.dtype])
    scaled = x * scalar(float(np.float32(shape.inverse_scale)))
    # max first: of NaN and a number it gives the number.
    rounded = T.min(T.max(scaled, scalar(low)), scalar(high)) + scalar(_MAGIC)
    bits = T.reinterpret("int32" if lanes == 1 else f"int32x{lanes}", rounded)
    return T.Bind(bits - splat(tirx.const(_MAGIC_BITS - shape.zero_point, "int32"), lanes))
