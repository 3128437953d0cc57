"""Maximum and average pooling in float32, with an epilogue in registers.

Lanes are channels. The output extents decide how far windows reach (ceil_mode is a larger extent). A maximum is that of
the numbers among the taps inside the image, minus infinity where there is none: NaN is passed over. onnxruntime passes
over it, or gives it, by where in the image the window lies.
"""

from dataclasses import dataclass
from typing import Literal

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument
from bnncc.kernels.pixel_schedule import PixelKernel, PixelSchedule
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, local, ramp, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes
from bnncc.tir.windows import ImageWindow, Taps, walk_windows


@dataclass(frozen=True)
class Pool2d(ImageWindow, PixelKernel):
    """Extents of one pooling: input [N, in_rows, in_width, C] and output [N, rows, width, C].

    what: "max", "average" (of the taps inside the image) or "average_with_pads" (padding counts as zeros; what a window
    reaches beyond the padding does not count).
    """

    what: Literal["max", "average", "average_with_pads"] = "max"

    @property
    def kind(self) -> str:
        return "max_pool2d" if self.what == "max" else "avg_pool2d"

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return (Argument("input", "input", "float32", self.input_shape),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row."""
        assert isinstance(schedule, PixelSchedule)
        out = self.output
        start = float("-inf") if self.what == "max" else 0.0
        with IRBuilder() as ib, T.prim_func():
            inputs = arg("input", "float32")
            params, outputs = epilogue_args(epilogue)
            part = share(out.batch * out.rows)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def emit(n: Expr, y: Expr, x: Expr, pixels: int, taps: Taps) -> None:
                origin = T.Bind(self.at(n, y, x) * out.channels)
                count = None if self.what == "max" else T.Bind(self._count(taps))

                def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                    everything = ramp(0, lanes)
                    totals = [local("float32", lanes) for _ in range(pixels)]
                    for total in totals:
                        T.buffer_store(total, splat(tirx.const(start, "float32"), lanes), [everything])

                    def tap(i: Expr, j: Expr) -> None:
                        for p, total in enumerate(totals):
                            at = origin + self.step(i, j, p) * out.channels + channel
                            value, old = load(inputs, at, lanes, valid), total[everything]
                            new = T.max(value, old) if self.what == "max" else old + value
                            T.buffer_store(total, new, [everything])

                    taps.each(tap)
                    where = [ep.Pixel(n, y, x + p) for p in range(pixels)]
                    values = [total[everything] for total in totals]
                    if count is not None:
                        values = [value / splat(count, lanes) for value in values]
                    values = [T.Bind(value) for value in values]
                    ep.emit_pixels(epilogue, out, where, channel, values, lanes, valid, params, outputs)

                each_slice(out.channels, float_lanes(target), slice_of)

            walk_windows(self, schedule.pixels, part, emit)
        return ib.get()

    def _count(self, taps: Taps) -> Expr:
        """What an average divides by, float32."""
        if self.what == "average_with_pads":
            count = taps.padded[0] * taps.padded[1]
        else:
            count = (taps.end[0] - taps.first[0]) * (taps.end[1] - taps.first[1])
        return tirx.const(float(count), "float32") if isinstance(count, int) else T.cast(count, "float32")
