"""Depthwise convolution in float32, one filter a channel, with its epilogue in registers.

Lanes are channels. Neighbouring pixels are computed together, so that a value under several windows is loaded once.
Nothing is padded: taps outside the image are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Arithmetic, Array, positions
from bnncc.kernels.pixel_schedule import PixelKernel, PixelSchedule
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, ramp, zeros
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes
from bnncc.tir.windows import ImageWindow, Taps, walk_windows


@dataclass(frozen=True)
class DepthwiseConv2d(ImageWindow, PixelKernel):
    """Extents of one depthwise convolution: input [N, in_rows, in_width, C] and output [N, rows, width, C]. Weights are
    float32 HWIO [KH, KW, 1, C]."""

    kind: ClassVar[str] = "depthwise_conv2d"
    arithmetic: ClassVar[Arithmetic] = "float32"

    @property
    def macs(self) -> int:
        return positions(self.output) * self.kernel[0] * self.kernel[1]

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return (
            Argument("input", "input", "float32", self.input_shape),
            Argument("weights", "constant", "float32", (self.kernel[0] * self.kernel[1] * self.output.channels,)),
        )

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """HWIO [KH, KW, 1, C] -> [KH, KW, C], one behind the other."""
        (weights,) = constants
        return (np.ascontiguousarray(weights, dtype=np.float32).reshape(-1),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row."""
        assert isinstance(schedule, PixelSchedule)
        out, lanes = self.output, float_lanes(target)
        with IRBuilder() as ib, T.prim_func():
            inputs, weights = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            params, outputs = epilogue_args(epilogue)
            part = share(out.batch * out.rows)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def emit(n: Expr, y: Expr, x: Expr, pixels: int, taps: Taps) -> None:
                origin = T.Bind(self.at(n, y, x) * out.channels)

                def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                    everything = ramp(0, lanes)
                    sums = zeros(pixels, "float32", lanes)

                    def tap(i: Expr, j: Expr) -> None:
                        factor = load(weights, (i * self.kernel[1] + j) * out.channels + channel, lanes, valid)
                        for p, total in enumerate(sums):
                            at = origin + self.step(i, j, p) * out.channels + channel
                            value = load(inputs, at, lanes, valid)
                            T.buffer_store(total, total[everything] + value * factor, [everything])

                    taps.each(tap)
                    where = [ep.Pixel(n, y, x + p) for p in range(pixels)]
                    values = [T.Bind(total[everything]) for total in sums]
                    ep.emit_pixels(epilogue, out, where, channel, values, lanes, valid, params, outputs)

                each_slice(out.channels, lanes, slice_of)

            walk_windows(self, schedule.pixels, part, emit)
        return ib.get()
