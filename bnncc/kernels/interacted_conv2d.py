"""Binary convolution whose channels interact before the epilogue.

A few rows of pixels at a time: all channels are convolved into the buffer of a pixel stage, the interactions are run
there, and the ordinary epilogue reads the result. What a convolution without interactions does is in xnor_conv2d.py;
nothing of this is in its code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.interaction_plan import Integers, Plan, Rounds, plan
from bnncc.kernels.kernel import Argument, Array, positions
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.kernels.xnor_schedules import Place, XnorSchedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.pixel_stage import Capacity, Stage
from bnncc.tir.registers import Buffer, Expr, cast, load, ramp
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, Grid, arg, epilogue_args

NONE = Capacity(0, 0, 0, 0)
# Bytes of the buffer, as far as whole bands of rows allow: what a first-level cache keeps, or all of a small image.
MOST_BYTES = 40 << 10
MOST_IMAGE_BYTES = 1 << 16
# Of a float map that is read or written, from which on its lines are fetched while the sums before are counted: the
# second-level cache does not keep them from one layer to the next, and nothing is computed beside the epilogue.
FETCHED_BYTES = 1 << 19
MOST_ROW_BYTES = 1 << 17  # of one row of pixels, all channels


def why_not(rounds: Rounds, offset: Array, most: int, *, width: int, groups: int) -> str:
    """Why a convolution with `groups` groups and rows of `width` pixels cannot run these interactions; "" if it can.
    offset: int32 [rows, columns, O], from which an accumulator subtracts `most` at the most."""
    channels = offset.shape[-1]
    if groups > 1 and channels // groups % SLICE:
        return f"groups of {channels // groups} channels do not start at bytes"
    if 2 * width * channels > MOST_ROW_BYTES:
        return f"a row of {width} pixels and {channels} channels is too large for the caches"
    return "" if _plan(rounds, offset, most) is not None else "its sums pass 16 bits"


def capacity(rounds: Rounds, offset: Array, most: int) -> Capacity:
    """Room for the program of these rounds, in sizes that many layers share."""
    made = _plan(rounds, offset, most)
    assert made is not None
    blocks = -(-offset.shape[-1] // SLICE)
    return Capacity(blocks, *(_rounded(count) for count in (len(made.updates), made.steps, made.copies)))


@dataclass(frozen=True)
class InteractedConv2d(XnorConv2d):
    """As XnorConv2d; `capacity` is that of the program that its last constants, the tables, become."""

    capacity: Capacity = NONE

    def _base(self, offset: Buffer, classes: Sequence[Buffer], y: Expr, x: Expr) -> Expr:
        """Where the offsets of a pixel begin."""
        if self.classes == (1, 1):
            return tirx.const(0, "int32")
        return (classes[0][y] * self.classes[1] + classes[1][x]) * self.output.channels

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        program = Argument("program", "constant", "int32", (self.capacity.size,))
        found = [
            dataclasses.replace(each, dtype="int16") if each.name == "offset" else each
            for each in super().operands(target, schedule)
        ]
        return (*found, program)

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """(those of XnorConv2d, then up and down of each round)."""
        assert isinstance(schedule, XnorSchedule)
        weights, offset, *rest = constants
        tables = [np.asarray(table, np.int32) for table in rest[2:]]
        rounds = list(zip(tables[::2], tables[1::2], strict=True))
        made = _plan(rounds, offset, self.bit_weight * 8 * self.filter_bytes)
        assert made is not None
        updates = [(u.target, u.source, [dataclasses.astuple(step) for step in u.steps]) for u in made.updates]
        blocks = sorted({row // SLICE for row in made.rows()})
        program = self._stage(target, schedule.grid(self, target)).program(blocks, updates, self.capacity)
        shifted = (offset.astype(np.int64) + made.constants).astype(np.int16)
        ordered = weights[schedule.order(self, target)]
        return (*super().arrange((ordered, shifted, *rest[:2]), target, schedule), program)

    def _bands(self, target: Target, grid: Grid) -> int:
        """Bands of rows that are computed together: few enough for the buffer, and equally many each time."""
        lanes, rows = target.vector_bits // 16, self.output.channels + self.capacity.copies
        if Stage.of(grid.bands * grid.rows * grid.output.width, lanes, rows).nbytes <= MOST_IMAGE_BYTES:
            return grid.bands
        most = MOST_BYTES // Stage(lanes, 1, rows).nbytes * lanes
        together = max(1, most // (grid.rows * grid.output.width))
        return -(-grid.bands // -(-grid.bands // together))

    def _stage(self, target: Target, grid: Grid) -> Stage:
        pixels = self._bands(target, grid) * grid.rows * self.output.width
        return Stage.of(pixels, target.vector_bits // 16, self.output.channels + self.capacity.copies)

    def _fetched(self, epilogue: ep.Epilogue, params: Sequence[Buffer], outputs: Sequence[Buffer]) -> list[Buffer]:
        """The float maps that the epilogue reads and writes, where they are large."""
        if 4 * positions(self.output) // self.output.batch < FETCHED_BYTES:
            return []
        read = [buffer for param, buffer in zip(epilogue.params, params, strict=True) if param.kind == "tensor"]
        written = [buffer for output, buffer in zip(epilogue.outputs, outputs, strict=True) if output.bits is None]
        return read + written

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Units are bands of rows of one image."""
        assert isinstance(schedule, XnorSchedule)
        out, grid = self.output, schedule.grid(self, target)
        stage, together = self._stage(target, grid), self._bands(target, grid)
        blocks = -(-self.group_channels // grid.lanes)
        with IRBuilder() as ib, T.prim_func():
            operands = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            bits, weights, offset, *classes, program = operands
            params, outputs = epilogue_args(epilogue)
            part = share(out.batch * grid.bands)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))
            buffer, base = stage.allocate()
            maps = self._fetched(epilogue, params, outputs)
            with T.serial(0, out.batch) as n:
                begin, end = part.of(n * grid.bands, grid.bands)
                with T.serial(0, T.floordiv(end - begin + (together - 1), together)) as round_:
                    first = T.Bind(begin + round_ * together)
                    last = T.Bind(T.min(first + together, end))
                    top = T.Bind(first * grid.rows)

                    def compute(
                        n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr
                    ) -> None:
                        """One tile, into the buffer."""
                        place = Place(n, group, group * blocks + block, y, x)
                        begin = T.Bind(group * self.group_channels + block * grid.lanes)
                        pieces = schedule.halves(self, target, vectors, bits, weights, place)
                        for piece in (each for each in pieces if each.first < channels):
                            valid = min(piece.lanes, channels - piece.first)
                            channel = T.Bind(begin + piece.first)
                            for number, (row, column) in enumerate(np.ndindex(grid.rows, grid.pixels)):
                                offsets = self._base(offset, classes, y + row, x + column)
                                acc = load(offset, offsets + channel, piece.lanes, valid) - piece.of(number)
                                where = T.Bind((y + row - top) * out.width + x + column)
                                stage.store(buffer, base, channel, where, acc, piece.lanes)
                                for map_ in maps:
                                    start = ((n * out.rows + y + row) * out.width + x + column) * out.channels
                                    _fetch(map_, start + channel, valid)

                    def finish(
                        n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr
                    ) -> None:
                        """The epilogue of one tile."""
                        for first in range(0, channels, SLICE):
                            valid = min(SLICE, channels - first)
                            channel = T.Bind(group * self.group_channels + block * grid.lanes + first)
                            values = ep.load_channels(epilogue, params, channel, SLICE, valid)
                            for row, column in np.ndindex(grid.rows, grid.pixels):
                                pixel = ep.Pixel(n, y + row, x + column)
                                where = base + stage.at(channel, (pixel.y - top) * out.width + pixel.x)
                                acc = T.Bind(cast(buffer[ramp(where, SLICE)], "int32", SLICE))
                                ep.emit(epilogue, out, pixel, channel, [acc], SLICE, valid, params, values, outputs)

                    with T.serial(0, self.groups) as group:
                        grid.walk_bands(n, group, (first, last), compute)
                    stage.interact(buffer, base, program, self.capacity)
                    with T.serial(0, self.groups) as group:
                        dataclasses.replace(grid, rows_first=True).walk_bands(n, group, (first, last), finish)
        return ib.get()


def _plan(rounds: Rounds, offset: Array, most: int) -> Plan | None:
    flat: Integers = np.asarray(offset, np.int64).reshape(-1, offset.shape[-1])
    return plan(rounds, flat.min(axis=0) - most, flat.max(axis=0))


def _fetch(map_: Buffer, at: Expr, count: int) -> None:
    """Bring so many floats into the second-level cache."""
    how = [tirx.const(word, "int32") for word in (0, 2, 1)]  # to be read, soon, data
    for first in range(0, count, 16):
        T.evaluate(tirx.call_intrin("void", "tirx.prefetch", T.address_of(map_[at + first]), *how))


def _rounded(count: int) -> int:
    """0, or the next power of two from 16 on."""
    return 1 << max(4, (count - 1).bit_length()) if count else 0
