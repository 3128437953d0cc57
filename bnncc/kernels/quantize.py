"""float32 images to 8-bit integers, with a border, in rows that conv2d_int8 reads: one pass over the input.

Rounding is to the nearest integer, ties to even, by adding 1.5 * 2^23: the sum's last bits are the integer. So three
operations of floats and one of integers do it on every machine, and NaN becomes the lowest value.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.ops.quantize import LIMITS
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.copies import fill, runs
from bnncc.tir.registers import Buffer, Expr, cast, load, ramp, splat
from bnncc.tir.shares import share, within
from bnncc.tir.tiles import arg, float_lanes

_MAGIC = 1.5 * 2**23
_MAGIC_BITS = 0x4B400000


def interleaves(channels: int) -> bool:
    """Whether the kernel reads NCHW images of so many channels."""
    return channels <= 4


@dataclass(frozen=True)
class Quantize(Kernel):
    """Input float32 [N, H, W, C] of the extents `output`, or [N, C, H, W] when `nchw`; the result is [N, top + H +
    bottom, row_elements] of `dtype`. pads are (top, left, bottom, right) pixels of `zero_point`; so is what follows
    them in a row. inverse_scale: steps of the integer in 1.0, a float32. The epilogue has nothing to say."""

    kind: ClassVar[str] = "quantize"

    pads: tuple[int, int, int, int]
    row_elements: int
    inverse_scale: float
    zero_point: int
    dtype: str
    nchw: bool = False

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        out = self.output
        shape = (out.channels, out.rows, out.width) if self.nchw else (out.rows, out.width, out.channels)
        return (Argument("input", "input", "float32", (out.batch, *shape)),)

    def results(self, epilogue: ep.Epilogue) -> tuple[Argument, ...]:
        rows = self.pads[0] + self.output.rows + self.pads[2]
        return (Argument("output", "output", self.dtype, (self.output.batch, rows, self.row_elements)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row of the result."""
        lanes, out = float_lanes(target), self.output
        channels, row_elements = out.channels, self.row_elements
        top, left, bottom, _ = self.pads
        in_pixels, kept = out.rows * out.width, out.width * out.channels
        with IRBuilder() as ib, T.prim_func():
            inputs, output = arg("input", "float32"), arg("output", self.dtype)
            rows = top + out.rows + bottom
            part = share(out.batch * rows)
            with T.serial(0, out.batch) as n:
                whole = part.of(n * rows, rows)

                def border(begin: int, end: int) -> None:
                    with within(whole, begin, end) as y:
                        fill(output, T.Bind((n * rows + y) * row_elements), self.zero_point, row_elements, 4 * lanes)

                border(0, top)
                with within(whole, top, top + out.rows) as y:
                    at = T.Bind((n * rows + y) * row_elements)
                    fill(output, at, self.zero_point, left * channels, 4 * lanes)
                    start = T.Bind(at + left * channels)
                    if self.nchw and channels > 1:
                        first = T.Bind(n * (in_pixels * channels) + (y - top) * out.width)
                        _interleave(self, inputs, first, in_pixels, output, start, lanes)
                    else:
                        _row(self, inputs, T.Bind((n * out.rows + y - top) * kept), output, start, kept, lanes)
                    end = T.Bind(start + kept)
                    fill(output, end, self.zero_point, row_elements - left * channels - kept, 4 * lanes)
                border(top + out.rows, rows)
        return ib.get()


def _row(of: Quantize, source: Buffer, first: Expr, output: Buffer, at: Expr, count: int, lanes: int) -> None:
    """`count` values that follow one another in both."""

    def move(here: Expr, width: int) -> None:
        value = _quantised(load(source, first + here, width), of, width)
        T.buffer_store(output, cast(value, of.dtype, width), [ramp(at + here, width)])

    runs(count, lanes, move)


def _interleave(of: Quantize, source: Buffer, first: Expr, plane: int, output: Buffer, at: Expr, lanes: int) -> None:
    """A row of each plane becomes a row of pixels."""

    def move(here: Expr, width: int) -> None:
        planes = [
            _quantised(load(source, first + c * plane + here, width), of, width) for c in range(of.output.channels)
        ]
        to = T.Bind(at + here * of.output.channels)
        if width == 1 or of.dtype == "int16":
            for c, values in enumerate(planes):
                steps = tirx.Ramp(to + c, tirx.IntImm("int32", of.output.channels), width) if width > 1 else to + c
                T.buffer_store(output, cast(values, of.dtype, width), [steps])
            return
        # The bytes of a pixel in one 32-bit lane, then the lanes without the bytes that are too many.
        word = T.bitwise_and(planes[0], splat(tirx.const(255, "int32"), width))
        for c, values in enumerate(planes[1:], 1):
            byte = T.bitwise_and(values, splat(tirx.const(255, "int32"), width))
            word = T.bitwise_or(word, T.shift_left(byte, splat(tirx.const(8 * c, "int32"), width)))
        data = T.reinterpret(f"{of.dtype}x{4 * width}", T.Bind(word))
        if of.output.channels < 4:
            kept = [tirx.const(4 * p + c, "int32") for p in range(width) for c in range(of.output.channels)]
            data = tirx.Shuffle([data], kept)
        T.buffer_store(output, data, [ramp(to, of.output.channels * width)])

    runs(of.output.width, lanes, move)


def _quantised(x: Expr, of: Quantize, lanes: int) -> Expr:
    """The integers of float32 values, as int32."""

    def scalar(value: float) -> Expr:
        return splat(tirx.const(value, "float32"), lanes)

    low, high = (float(limit - of.zero_point) for limit in LIMITS[of.dtype])
    scaled = x * scalar(float(np.float32(of.inverse_scale)))
    # max first: of NaN and a number it gives the number.
    rounded = T.min(T.max(scaled, scalar(low)), scalar(high)) + scalar(_MAGIC)
    bits = T.reinterpret("int32" if lanes == 1 else f"int32x{lanes}", rounded)
    return T.Bind(bits - splat(tirx.const(_MAGIC_BITS - of.zero_point, "int32"), lanes))
