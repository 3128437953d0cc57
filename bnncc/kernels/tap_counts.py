"""The first half of a circulant convolution whose filters meet all input orientations with the same bits.

    counts[n, y, x, f, t] = popcount(pixel ^ w[f, t])

for each tap t of each base filter f: a binary 1x1 convolution with 9 times as many outputs as there are base filters.
Turning a filter moves these numbers and changes none, so they serve all orientations; circulant_sum.py adds them up.
The pixel's words hold all orientations of the input, under which the weights repeat: base weights are stored and read
once. Counts are uint16.

Outputs lie as `CirculantSum` reads them: [blocks of filters, taps, filters of a block].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Array
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.kernels.xnor_schedules import ChannelLanes, Place, WordLanes, XnorSchedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, cast, store
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, arg

TAPS = 9
_COUNT = 16  # bits of a count, and of the sums of nine


@dataclass(frozen=True)
class TapCounts(XnorConv2d):
    """Extents. output: channels are 9 times the base filters. The input has pixels around those that are read, `origin`
    (rows, columns) of them before the first. orientations: of the input, whose `in_channels` are those of all."""

    kind: ClassVar[str] = "tap_counts"
    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (WordLanes, ChannelLanes)

    orientations: int = 1
    origin: tuple[int, int] = (0, 0)

    @property
    def repeats(self) -> int:
        return self.orientations

    def first_pixel(self, n: Expr, y: Expr, x: Expr) -> Expr:
        return (n * self.in_rows + y + self.origin[0]) * self.in_width + x + self.origin[1]

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return super().operands(target, schedule)[:2]

    def results(self, epilogue: ep.Epilogue) -> tuple[Argument, ...]:
        out = self.output
        return (Argument("out0", "output", "uint16", (out.batch, out.rows, out.width, out.channels)),)

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """(base weights uint8 [F, 9, bytes of one orientation]) -> words as the schedule wants them."""
        assert isinstance(schedule, XnorSchedule)
        (weights,) = constants
        filters, taps, size = weights.shape
        lanes = block_lanes(filters, target)
        ordered = weights.astype(np.uint8).reshape(-1, lanes, taps, size).transpose(0, 2, 1, 3)
        return (schedule.arrange(np.ascontiguousarray(ordered).reshape(-1, 1, size), self, target),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Units as `Grid` says. There is no epilogue."""
        assert isinstance(schedule, XnorSchedule)
        out, grid = self.output, schedule.grid(self, target)
        with IRBuilder() as ib, T.prim_func():
            bits, weights = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            counted = arg("out0", "uint16")
            part = share(grid.units)

            def emit_tile(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
                counts = schedule.count(self, target, vectors, bits, weights, Place(n, group, block, y, x))
                for number, (row, column) in enumerate(np.ndindex(grid.rows, grid.pixels)):
                    pixel = (n * out.rows + y + row) * out.width + x + column
                    for first in range(0, channels, SLICE):
                        at = pixel * out.channels + block * grid.lanes + first
                        store(counted, at, cast(counts(number, first), "uint16", SLICE), SLICE)

            grid.walk(part, emit_tile)
        return ib.get()


def block_lanes(filters: int, target: Target) -> int:
    """Base filters side by side in one vector of counts: as many as fit and divide them."""
    lanes = target.vector_bits // _COUNT
    while filters % lanes:
        lanes //= 2
    return lanes


def why_not(filters: int, channels: int, orientations: int, target: Target) -> str:
    """Why there is no such kernel for so many base filters and channels; "" if there is."""
    width = orientations * channels
    if filters % SLICE:
        return f"{filters} base filters are no multiple of {SLICE}"
    if TAPS * width >= 1 << _COUNT:
        return f"sums over {width} channels pass {_COUNT} bits"
    word = target.lane_bits
    if channels % word and (word % channels or width % word or channels % 8):
        return f"{channels} base channels do not fill words of {word} bits"
    return ""
