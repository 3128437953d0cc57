"""The second half of a circulant convolution with shared filters: what tap_counts.py counted, added up.

    acc[n, y, x, k * F + f] = offset[row_class[y], col_class[x], k * F + f]
                              - bit_weight * sum over taps t:  counts[n, y + t.row, x + t.column, f, turned_k(t)]

Orientation k takes the nine counts around a pixel with its taps turned by k, in 16-bit additions. Taps outside of the
image are left out; what they hold is in `offset`, by border classes. A row of sums lies on the stack, from where the
ordinary epilogue takes them.
"""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Arithmetic, Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.tap_counts import TAPS, block_lanes
from bnncc.ops.circulant_expand import turned
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, cast, load, ramp, splat, stack
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, arg, epilogue_args, float_lanes

MOST_STACK = 32 * 1024  # bytes of one row of sums


@dataclass(frozen=True)
class CirculantSum(Kernel):
    """Extents. Input uint16 [N, in_rows, in_width, 9 * F], in blocks of filters as `TapCounts` writes them; the output
    has orientations * F channels. pads: rows above and columns to the left of the image that windows reach. classes:
    rows and columns of `offset`, and its channels: those of the output, or 1 where all are the same."""

    kind: ClassVar[str] = "circulant_sum"
    arithmetic: ClassVar[Arithmetic] = "binary"

    output: ep.Geometry
    in_rows: int
    in_width: int
    orientations: int
    pads: tuple[int, int]
    bit_weight: int
    classes: tuple[int, int, int]

    @property
    def filters(self) -> int:
        """Base filters."""
        return self.output.channels // self.orientations

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        out = self.output
        return (
            Argument("counts", "input", "uint16", (out.batch, self.in_rows, self.in_width, TAPS * self.filters)),
            Argument("offset", "constant", "int32", self.classes),
            Argument("row_class", "constant", "int32", (out.rows,)),
            Argument("col_class", "constant", "int32", (out.width,)),
        )

    def why_not(self, target: Target) -> str:
        """Why this cannot be computed; "" if it can."""
        size = 2 * self.output.width * self.orientations * block_lanes(self.filters, target)
        return f"rows of {self.output.width} pixels take {size} bytes of stack" if size > MOST_STACK else ""

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row of one image."""
        out, filters, lanes = self.output, self.filters, block_lanes(self.filters, target)
        step = float_lanes(target) if lanes % float_lanes(target) == 0 else SLICE
        rows, columns = _runs(out.rows, self.in_rows, self.pads[0]), _runs(out.width, self.in_width, self.pads[1])
        pixel_sums = self.orientations * lanes
        with IRBuilder() as ib, T.prim_func():
            counts, offset, *classes = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            params, outputs = epilogue_args(epilogue)
            part = share(out.batch * out.rows)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))
            sums, start = stack("uint16", out.width * pixel_sums)

            def add(n: Expr, y: Expr, x: Expr, block: Expr, tap_rows: tuple[int, ...], tap_columns: range) -> None:
                """All orientations of one pixel, of one block of filters."""
                pixel = (n * self.in_rows + y - self.pads[0]) * self.in_width + x - self.pads[1]
                first = T.Bind(pixel * (TAPS * filters) + block * (TAPS * lanes))
                for k in range(self.orientations):
                    source = turned(k * (8 // self.orientations))
                    total: Expr = splat(tirx.const(0, "uint16"), lanes)
                    for i in tap_rows:
                        for j in tap_columns:
                            there = (i * self.in_width + j) * (TAPS * filters) + source[3 * i + j] * lanes
                            total = total + counts[ramp(first + there, lanes)]
                    T.buffer_store(sums, total, [ramp(start + x * pixel_sums + k * lanes, lanes)])

            def finish(n: Expr, y: Expr, block: Expr) -> None:
                """The epilogue of a row."""
                with T.serial(0, self.orientations) as k, T.serial(0, lanes // step) as piece:
                    within = T.Bind(k * lanes + piece * step)
                    channel = T.Bind(k * filters + block * lanes + piece * step)
                    values = ep.load_channels(epilogue, params, channel, step, step)
                    with T.serial(0, out.width) as x:
                        where = classes[0][y] * self.classes[1] + classes[1][x]
                        base = (
                            splat(offset[where], step)
                            if self.classes[2] == 1
                            else load(offset, where * out.channels + channel, step)
                        )
                        count = cast(sums[ramp(start + x * pixel_sums + within, step)], "int32", step)
                        if self.bit_weight == 2:
                            count = T.shift_left(count, splat(tirx.const(1, "int32"), step))
                        acc = T.Bind(base - count)
                        pixel = ep.Pixel(n, y, x)
                        ep.emit(epilogue, out, pixel, channel, [acc], step, step, params, values, outputs)

            def row(n: Expr, y: Expr) -> None:
                with T.serial(0, filters // lanes) as block:
                    for begin, end, tap_rows in rows:
                        with T.If(tirx.all(y >= begin, y < end)), T.Then():
                            for left, right, tap_columns in columns:
                                with T.serial(left, right) as x:
                                    add(n, y, x, block, tuple(tap_rows), tap_columns)
                    finish(n, y, block)

            part.each_row(out.batch, out.rows, row)
        return ib.get()


def _runs(outputs: int, inputs: int, pad: int) -> list[tuple[int, int, range]]:
    """Along one axis: outputs from the first to before the second whose windows have the same taps inside, and those
    taps."""
    runs: list[tuple[int, int, range]] = []
    for output in range(outputs):
        first = output - pad
        inside = range(min(3, max(0, -first)), max(0, min(3, inputs - first)))
        if runs and runs[-1][2] == inside:
            runs[-1] = (runs[-1][0], output + 1, inside)
        else:
            runs.append((output, output + 1, inside))
    return runs
