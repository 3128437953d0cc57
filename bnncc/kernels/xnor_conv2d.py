"""Binary convolution on packed bits, with its epilogue in registers.

acc[n, y, x, o] = offset[row_class[y], col_class[x], o] - bit_weight * popcount(window ^ w[o])

Words of the window are xor-ed with vectors of weights and counted into a tile of accumulators that never leaves the
registers; the loops over the window are outside the tile. There is no im2col. What lanes are, and how large the tile
is, the schedule says (xnor_schedules.py).

Several convolutions of one input and window are one kernel of several `parts`, which fill vectors of lanes where the
channels of one would not. Their filters are interleaved, eight channels of each at a time, so that a tile holds the
same channels of all parts, and one epilogue reads them: sums over parts need no memory.

Zero padding costs nothing in the loops: borders hold 0 bits, and `offset` has a row for each of the (at most 9 for
3x3) border classes that adds back what those bits subtracted.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels import xnor_default, xnor_schedules
from bnncc.kernels.kernel import Argument, Arithmetic, Array, Kernel, positions
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_schedules import Place, XnorSchedule
from bnncc.targets.target import Target
from bnncc.tir import byte_counts
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Buffer, Expr, load, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, Prepare, arg, epilogue_args


@dataclass(frozen=True)
class TileWeights:
    """Weights from `first` on in `buffer`: all of them, or those of one block of channels of one input group, which
    `prepare` brings there before its tiles."""

    buffer: Buffer
    first: Expr = 0
    prepare: Prepare | None = None


@dataclass(frozen=True)
class XnorConv2d(Kernel):
    """Extents of one binary convolution. Input [N, in_rows, in_width, groups * group_bytes] is padded already; a group
    of `in_channels` channels fills `group_bytes` bytes, weights are uint8 [O, taps, group_bytes]. bit_weight: what a
    bit that differs takes from the accumulator, 2 for +-1 activations and 1 for {0, 1}. classes: rows and columns of
    `offset`. parts: convolutions computed together, each of them with the channels of `output`, weights and offsets of
    one after those of the one before: O is parts * channels. Several have whole bytes of channels and one group."""

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
    parts: int = 1

    @property
    def filters(self) -> ep.Geometry:
        """The output with the channels of all parts beside one another, as tiles walk it."""
        return replace(self.output, channels=self.parts * self.output.channels)

    @property
    def group_channels(self) -> int:
        """Filters of one group."""
        return self.filters.channels // self.groups

    @property
    def filter_bytes(self) -> int:
        """Bytes that one filter meets."""
        return self.kernel[0] * self.kernel[1] * self.group_bytes

    @property
    def filter_groups(self) -> int:
        """Groups of output channels that are computed one after the other."""
        return self.groups

    @property
    def repeats(self) -> int:
        """How often the weights of a tap repeat under the bytes of a pixel; they are stored once."""
        return 1

    @property
    def stored_bytes(self) -> int:
        """Bytes of one filter."""
        return self.filter_bytes // self.repeats

    def weight_bytes(self, target: Target) -> int:
        """Bytes of a word of weights: the target's, or less where they repeat within it."""
        return min(target.word_bytes, self.group_bytes // self.repeats)

    @property
    def macs(self) -> int:
        return positions(self.filters) * self.kernel[0] * self.kernel[1] * self.in_channels

    def default(self, target: Target) -> XnorSchedule:
        return xnor_default.default(self, target)

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        assert isinstance(schedule, XnorSchedule)
        out, word = self.output, np.dtype(f"uint{target.lane_bits}")
        weight = np.dtype(f"uint{8 * self.weight_bytes(target)}")
        pixel_words = self.groups * self.group_bytes // word.itemsize
        channels = self.groups * schedule.padded_channels(self, target)
        return (
            Argument("bits", "input", word.name, (out.batch, self.in_rows, self.in_width, pixel_words)),
            Argument("weights", "constant", weight.name, (channels * self.stored_bytes // weight.itemsize,)),
            Argument("offset", "constant", "int32", (*self.classes, self.filters.channels)),
            Argument("row_class", "constant", "int32", (out.rows,)),
            Argument("col_class", "constant", "int32", (out.width,)),
        )

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """(weights uint8 [O, taps, group_bytes], offset int32 [rows, columns, O], row_class, col_class)."""
        assert isinstance(schedule, XnorSchedule)
        weights, *rest = constants
        if self.parts > 1:
            slices = weights.reshape(self.parts, -1, SLICE, *weights.shape[1:])
            weights = slices.swapaxes(0, 1).reshape(weights.shape)
        return (schedule.arrange(weights.astype(np.uint8), self, target), *rest)

    def first_tap(self, n: Expr, y: Expr, x: Expr) -> Expr:
        """Number of the input pixel under the first tap of the output pixel (y, x) of image n."""
        return T.Bind(self.first_pixel(n, y, x))

    def first_pixel(self, n: Expr, y: Expr, x: Expr) -> Expr:
        """`first_tap` as an expression."""
        return (n * self.in_rows + y * self.strides[0]) * self.in_width + x * self.strides[1]

    def byte_window(self, words: int, word_bytes: int) -> byte_counts.Window:
        """The window as bytes are counted in it: pixels of `words` words."""
        pixel = self.groups * self.group_bytes
        return byte_counts.Window(
            self.kernel,
            words,
            word_bytes,
            row=self.dilations[0] * self.in_width * pixel,
            column=self.dilations[1] * pixel,
            pixel=self.strides[1] * pixel,
            below=self.strides[0] * self.in_width * pixel,
        )

    def repeated_window(self) -> byte_counts.Window:
        """The pixel of a 1x1 window in parts that have the same weights, as if they were columns of a window."""
        pixel = self.group_bytes
        words = pixel // self.repeats
        return byte_counts.Window(
            (1, self.repeats),
            words,
            1,
            row=0,
            column=words,
            pixel=pixel,
            below=self.in_width * pixel,
            same_weights=True,
        )

    def tile_weights(self, target: Target, schedule: XnorSchedule, weights: Buffer) -> TileWeights:
        """What `schedule.count` reads."""
        return TileWeights(weights)

    def accumulators(
        self, offset: Buffer, classes: Sequence[Buffer], channel: Expr, valid: int
    ) -> Callable[[ep.Pixel, Callable[[], Expr]], Expr]:
        """(pixel, its counts) -> its accumulators, of the SLICE channels from `channel` on, the first `valid` real."""
        plain = load(offset, channel, SLICE, valid) if self.classes == (1, 1) else None

        def accumulator(pixel: ep.Pixel, counted: Callable[[], Expr]) -> Expr:
            base = plain
            if base is None:
                where = classes[0][pixel.y] * self.classes[1] + classes[1][pixel.x]
                base = load(offset, where * self.filters.channels + channel, SLICE, valid)
            count = counted()
            if self.bit_weight == 2:
                count = T.shift_left(count, splat(tirx.const(1, "int32"), SLICE))
            return T.Bind(base - count)

        return accumulator

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Units as `Grid` says."""
        assert isinstance(schedule, XnorSchedule)
        out, grid = self.output, schedule.grid(self, target)
        blocks = -(-self.group_channels // grid.lanes)
        with IRBuilder() as ib, T.prim_func():
            bits, weights, offset, *classes = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            params, outputs = epilogue_args(epilogue)
            units = share(grid.units)
            units.once(lambda: ep.emit_borders(epilogue, out, outputs))
            held = self.tile_weights(target, schedule, weights)

            def emit_tile(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
                """One tile of `vectors` vectors from `block` on, `channels` of them real."""
                place = Place(n, group, group * blocks + block, y, x)
                if held.prepare:  # which left the weights of this block alone
                    place = Place(n, tirx.const(0, "int32"), tirx.const(0, "int32"), y, x, held.first)
                counts = schedule.count(self, target, vectors, bits, held.buffer, place)
                for first in range(0, channels, SLICE * self.parts):
                    valid = min(SLICE, channels - first)
                    within = block * grid.lanes + first
                    if self.parts > 1:
                        within = T.floordiv(within, self.parts)
                    channel = T.Bind(group * self.group_channels + within)
                    values = ep.load_channels(epilogue, params, channel, SLICE, valid)
                    accumulators = [
                        self.accumulators(offset, classes, channel + part * out.channels, valid)
                        for part in range(self.parts)
                    ]
                    for number, (row, column) in enumerate(np.ndindex(grid.rows, grid.pixels)):
                        pixel = ep.Pixel(n, y + row, x + column)
                        found = [
                            accumulator(pixel, functools.partial(counts, number, first + part * SLICE))
                            for part, accumulator in enumerate(accumulators)
                        ]
                        ep.emit(epilogue, out, pixel, channel, found, SLICE, valid, params, values, outputs)

            grid.walk(units, emit_tile, held.prepare)
        return ib.get()
