"""Depthwise convolution in float32, one filter a channel, with its epilogue in registers.

Lanes are channels. Neighbouring pixels are computed together, so that a value under several windows is loaded once.
Nothing is padded: taps outside the image are left out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, local, ramp, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes
from bnncc.tir.windows import Taps, Window, walk_windows

_PIXELS = 4  # computed together


@dataclass(frozen=True)
class Shape(Window):
    """Extents of one depthwise convolution: input [N, in_rows, in_width, C] and output [N, rows, width, C]."""


def arrange_weights(weights: npt.NDArray[np.float32], target: Target) -> npt.NDArray[np.float32]:
    """HWIO [KH, KW, 1, C] -> [KH, KW, C], one behind the other."""
    return np.ascontiguousarray(weights, dtype=np.float32).reshape(-1)


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, weights, *epilogue params, *outputs, begin, end) -> 0. A unit is a row."""
    out, lanes = shape.output, float_lanes(target)
    with IRBuilder() as ib, T.prim_func():
        inputs, weights = arg("input", "float32"), arg("weights", "float32")
        params, outputs = epilogue_args(epilogue)
        part = share(out.batch * out.rows)
        part.once(lambda: ep.emit_borders(epilogue, out, outputs))

        def emit(n: Expr, y: Expr, x: Expr, pixels: int, taps: Taps) -> None:
            origin = T.Bind(shape.at(n, y, x) * out.channels)

            def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                everything = ramp(0, lanes)
                sums = [local("float32", lanes) for _ in range(pixels)]
                for total in sums:
                    T.buffer_store(total, splat(tirx.const(0.0, "float32"), lanes), [everything])

                def tap(i: Expr, j: Expr) -> None:
                    factor = load(weights, (i * shape.kernel[1] + j) * out.channels + channel, lanes, valid)
                    for p, total in enumerate(sums):
                        at = origin + shape.step(i, j, p) * out.channels + channel
                        value = load(inputs, at, lanes, valid)
                        T.buffer_store(total, total[everything] + value * factor, [everything])

                taps.each(tap)
                where = [ep.Pixel(n, y, x + p) for p in range(pixels)]
                values = [T.Bind(total[everything]) for total in sums]
                ep.emit_pixels(epilogue, out, where, channel, values, lanes, valid, params, outputs)

            each_slice(out.channels, lanes, slice_of)

        walk_windows(shape, _PIXELS, part, emit)
    return ib.get()
