"""Binary convolution on packed bits, with its epilogue in registers.

acc[n, y, x, o] = offset[row_class[y], col_class[x], o] - bit_weight * popcount(window ^ w[o])

Words of the window are xor-ed with vectors of weights and counted into a tile of accumulators that never leaves the
registers; the loops over the window are outside the tile. There is no im2col. What lanes are, and how large the tile
is, the schedule says (xnor_schedules.py).

Zero padding costs nothing in the loops: borders hold 0 bits, and `offset` has a row for each of the (at most 9 for
3x3) border classes that adds back what those bits subtracted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels import xnor_schedules
from bnncc.kernels.kernel import Argument, Arithmetic, Array, Kernel, positions
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_schedules import Place, XnorSchedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, arg, epilogue_args


@dataclass(frozen=True)
class XnorConv2d(Kernel):
    """Extents of one binary convolution. Input [N, in_rows, in_width, groups * group_bytes] is padded already; a group
    of `in_channels` channels fills `group_bytes` bytes, weights are uint8 [O, taps, group_bytes]. bit_weight: what a
    bit that differs takes from the accumulator, 2 for +-1 activations and 1 for {0, 1}. classes: rows and columns of
    `offset`."""

    kind: ClassVar[str] = "xnor_conv2d"
    arithmetic: ClassVar[Arithmetic] = "binary"
    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = xnor_schedules.SCHEDULES

    output: ep.Geometry
    in_rows: int
    in_width: int
    in_channels: int
    group_bytes: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    bit_weight: int = 2
    classes: tuple[int, int] = (1, 1)

    @property
    def group_channels(self) -> int:
        """Output channels of one group."""
        return self.output.channels // self.groups

    @property
    def filter_bytes(self) -> int:
        """Bytes of one filter."""
        return self.kernel[0] * self.kernel[1] * self.group_bytes

    @property
    def macs(self) -> int:
        return positions(self.output) * self.kernel[0] * self.kernel[1] * self.in_channels

    def default(self, target: Target) -> XnorSchedule:
        return xnor_schedules.default(self, target)

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        assert isinstance(schedule, XnorSchedule)
        out, word = self.output, np.dtype(f"uint{target.lane_bits}")
        pixel_words = self.groups * self.group_bytes // word.itemsize
        channels = self.groups * schedule.padded_channels(self, target)
        return (
            Argument("bits", "input", word.name, (out.batch, self.in_rows, self.in_width, pixel_words)),
            Argument("weights", "constant", word.name, (channels * self.filter_bytes // word.itemsize,)),
            Argument("offset", "constant", "int32", (*self.classes, out.channels)),
            Argument("row_class", "constant", "int32", (out.rows,)),
            Argument("col_class", "constant", "int32", (out.width,)),
        )

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """(weights uint8 [O, taps, group_bytes], offset int32 [rows, columns, O], row_class, col_class)."""
        assert isinstance(schedule, XnorSchedule)
        weights, *rest = constants
        return (schedule.arrange(weights.astype(np.uint8), self, target), *rest)

    def first_tap(self, n: Expr, y: Expr, x: Expr) -> Expr:
        """Number of the input pixel under the first tap of the output pixel (y, x) of image n."""
        return T.Bind((n * self.in_rows + y * self.strides[0]) * self.in_width + x * self.strides[1])

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Units as `Grid` says."""
        assert isinstance(schedule, XnorSchedule)
        out, grid = self.output, schedule.grid(self, target)
        blocks = -(-self.group_channels // grid.lanes)
        with IRBuilder() as ib, T.prim_func():
            bits, weights, offset, *classes = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            params, outputs = epilogue_args(epilogue)
            part = share(grid.units)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def emit_tile(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
                """One tile of `vectors` vectors from `block` on, `channels` of them real."""
                place = Place(n, group, group * blocks + block, y, x)
                counts = schedule.count(self, target, vectors, bits, weights, place)
                for first in range(0, channels, SLICE):
                    valid = min(SLICE, channels - first)
                    channel = T.Bind(group * self.group_channels + block * grid.lanes + first)
                    values = ep.load_channels(epilogue, params, channel, SLICE, valid)
                    plain = load(offset, channel, SLICE, valid) if self.classes == (1, 1) else None
                    for number, (row, column) in enumerate(np.ndindex(grid.rows, grid.pixels)):
                        pixel = ep.Pixel(n, y + row, x + column)
                        base = plain
                        if base is None:
                            where = classes[0][pixel.y] * self.classes[1] + classes[1][pixel.x]
                            base = load(offset, where * out.channels + channel, SLICE, valid)
                        count = counts(number, first)
                        if self.bit_weight == 2:
                            count = T.shift_left(count, splat(tirx.const(1, "int32"), SLICE))
                        acc = T.Bind(base - count)
                        ep.emit(epilogue, out, pixel, channel, acc, SLICE, valid, params, values, outputs)

            grid.walk(part, emit_tile)
        return ib.get()
