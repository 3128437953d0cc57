"""The schedules of a binary convolution: what the lanes of its accumulators are, and how many are held in registers.

Three classes, each with the constants' arrangement and the counting loop that go with it:

- `WordLanes`: 64-bit lanes (VPOPCNTDQ), one for each output channel; a word of the window is broadcast.
- `ChannelLanes`: byte lanes, one for each output channel; a byte of the window is broadcast.
- `WindowLanes`: byte lanes along the window, one output channel at a time; they are added up at the end.

How bytes are counted is in tir/byte_counts.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Kernel
from bnncc.kernels.schedule import MOST_VECTORS, Choices, Schedule, up_to
from bnncc.kernels.tile_schedule import L1_WEIGHTS, best_tile, too_many
from bnncc.targets.target import ByteTiles, Target
from bnncc.tir import byte_counts, pairwise, registers
from bnncc.tir.registers import Buffer, Expr, load, ramp, splat, zeros
from bnncc.tir.tiles import SLICE, Grid

if TYPE_CHECKING:
    from bnncc.kernels.xnor_conv2d import XnorConv2d

MOST_ROWS = 4  # of output pixels in one tile

# (pixel, first channel of a slice) -> int32 vector of SLICE counts; pixels of a tile are numbered row by row.
Counts = Callable[[int, int], Expr]


@dataclass(frozen=True)
class Place:
    """Where a tile lies: image, group, its first block of channels counted over all groups, its first output pixel."""

    n: Expr
    group: Expr
    block: Expr
    y: Expr
    x: Expr


@dataclass(frozen=True)
class XnorSchedule(Schedule, ABC):
    """What all three have. pixels: of one row of a tile. rows_first: all channels of a row (of tiles) are computed
    before the next row, rather than all rows of a block of channels before the next block."""

    pixels: int
    rows_first: bool

    @abstractmethod
    def grid(self, conv: XnorConv2d, target: Target) -> Grid:
        """The tiles that the kernel's loops walk."""

    def padded_channels(self, conv: XnorConv2d, target: Target) -> int:
        """Channels of one group, filled up to whole vectors, that `arrange` gives."""
        lanes = self.grid(conv, target).lanes
        return -(-conv.group_channels // lanes) * lanes

    @abstractmethod
    def arrange(self, weights: npt.NDArray[np.uint8], conv: XnorConv2d, target: Target) -> npt.NDArray[np.uint8]:
        """[O, T, group_bytes] -> words as `count` reads them, one behind the other; the last vector of channels is
        filled up with zeros."""

    @abstractmethod
    def count(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> Counts:
        """Count the bits in which one tile differs from its weights, `vectors` vectors of channels wide."""


def _shared(conv: XnorConv2d, target: Target) -> dict[str, tuple[int, ...]]:
    """The choices of all three classes."""
    return {"pixels": up_to(min(conv.output.width, target.registers)), "rows_first": (False, True)}


def _vectors(conv: XnorConv2d, target: Target) -> tuple[int, ...]:
    """Vectors of channels in a tile, which holds whole slices of all parts."""
    lanes, channels = target.popcount_lanes, conv.group_channels
    possible = up_to(min(-(-channels // lanes), MOST_VECTORS))
    if conv.parts == 1:
        return possible
    return tuple(n for n in possible if n * lanes % (SLICE * conv.parts) == 0 or n * lanes >= channels)


def _blocked(
    weights: npt.NDArray[np.uint8], conv: XnorConv2d, *, size: int, lanes: int, multiple: int
) -> npt.NDArray[np.uint8]:
    """[groups, blocks, T, words, lanes], words of `size` bytes, channels filled up to a multiple of `multiple`."""
    channels, taps = conv.group_channels, weights.shape[1]
    words = weights.reshape(conv.groups, channels, taps, conv.group_bytes // size, size)
    words = np.pad(words, [(0, 0), (0, -channels % multiple), (0, 0), (0, 0), (0, 0)])
    blocks = words.reshape(conv.groups, -1, lanes, *words.shape[2:])
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2, 5)).reshape(-1)


@dataclass(frozen=True)
class WordLanes(XnorSchedule):
    """64-bit lanes that are output channels. vectors: of channels in a tile."""

    vectors: int

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        conv = cast("XnorConv2d", kernel)
        if target.lane_bits != 64:
            return None
        return _shared(conv, target) | {"vectors": _vectors(conv, target)}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        return too_many(target, pixels=self.pixels, vectors=self.vectors)

    def grid(self, conv: XnorConv2d, target: Target) -> Grid:
        return Grid(
            conv.filters,
            conv.groups,
            target.popcount_lanes,
            self.pixels,
            self.vectors,
            rows=1,
            rows_first=self.rows_first,
        )

    def arrange(self, weights: npt.NDArray[np.uint8], conv: XnorConv2d, target: Target) -> npt.NDArray[np.uint8]:
        lanes = target.popcount_lanes
        return _blocked(weights, conv, size=target.word_bytes, lanes=lanes, multiple=lanes)

    def count(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> Counts:
        lanes, (kernel_h, kernel_w) = target.popcount_lanes, conv.kernel
        words = conv.group_bytes // target.word_bytes
        pixel_words = conv.groups * words
        in_base = conv.first_tap(place.n, place.y, place.x)
        weight_stride = kernel_h * kernel_w * words * lanes
        weight_base = T.Bind(place.block * weight_stride)
        totals = zeros(self.pixels * vectors, f"uint{target.lane_bits}", lanes)
        with T.serial(0, kernel_h) as kh, T.serial(0, kernel_w) as kw, T.serial(0, words) as word:
            tap = kh * kernel_w + kw
            first = weight_base + (tap * words + word) * lanes
            rows = [load(weights, first + v * weight_stride, lanes) for v in range(vectors)]
            column = in_base + kh * (conv.dilations[0] * conv.in_width) + kw * conv.dilations[1]
            for p in range(self.pixels):
                here = (column + p * conv.strides[1]) * pixel_words + place.group * words + word
                window_word = T.Bind(splat(bits[here], lanes))
                for v in range(vectors):
                    total = totals[p * vectors + v]
                    at_all = ramp(0, lanes)
                    T.buffer_store(total, total[at_all] + T.popcount(window_word ^ rows[v]), [at_all])
        return _slices(totals, vectors, lanes)


@dataclass(frozen=True)
class ByteLanes(XnorSchedule):
    """What both classes of byte lanes have. rows: of output pixels in a tile, which share rows of the input. unroll,
    columns, together: how the counting loop is written out, see `byte_counts.Loops`."""

    rows: int
    unroll: int
    columns: int
    together: int

    @property
    def loops(self) -> byte_counts.Loops:
        """The choices of the counting loop."""
        return byte_counts.Loops(self.unroll, self.columns, self.together)


def _byte_choices(conv: XnorConv2d, target: Target) -> dict[str, tuple[int, ...]]:
    rows = tuple(rows for rows in up_to(MOST_ROWS) if conv.output.rows % rows == 0)
    return _shared(conv, target) | {
        "rows": rows,
        "unroll": byte_counts.UNROLL,
        "columns": byte_counts.COLUMNS,
        "together": byte_counts.TOGETHER,
    }


@dataclass(frozen=True)
class ChannelLanes(ByteLanes):
    """Byte lanes that are output channels. vectors: of channels in a tile."""

    vectors: int

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        conv = cast("XnorConv2d", kernel)
        if target.lane_bits != 8:
            return None
        return _byte_choices(conv, target) | {"vectors": _vectors(conv, target)}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        return too_many(target, pixels=self.pixels, vectors=self.vectors, rows=self.rows)

    def grid(self, conv: XnorConv2d, target: Target) -> Grid:
        return Grid(
            conv.filters, conv.groups, target.popcount_lanes, self.pixels, self.vectors, self.rows, self.rows_first
        )

    def arrange(self, weights: npt.NDArray[np.uint8], conv: XnorConv2d, target: Target) -> npt.NDArray[np.uint8]:
        lanes = target.popcount_lanes
        return _blocked(weights, conv, size=1, lanes=lanes, multiple=lanes)

    def count(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> Counts:
        lanes, words = target.popcount_lanes, conv.group_bytes
        in_base = conv.first_tap(place.n, place.y, place.x)
        weight_base = T.Bind(place.block * (conv.kernel[0] * conv.kernel[1] * words * lanes))
        at = T.Bind(in_base * (conv.groups * words) + place.group * words)
        tile = byte_counts.Tile(self.pixels, vectors, self.rows, self.loops)
        totals = byte_counts.accumulate(_window(conv, words, 1), tile, target, bits, at, weights, weight_base)
        return _slices(totals, vectors, lanes)


@dataclass(frozen=True)
class WindowLanes(ByteLanes):
    """Byte lanes along the window, for pixels of whole vectors. channels: of a tile, each with sums of its own. An
    epilogue finishes SLICE channels, so a slice takes several tiles."""

    channels: int

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        conv = cast("XnorConv2d", kernel)
        # tir/pairwise.py adds up vectors of 128 bits, into 16 bits.
        if target.lane_bits != 8 or target.vector_bits != 128 or not windows_fit(conv, target):
            return None
        return _byte_choices(conv, target) | {"channels": (1, 2, 4, 8)}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        return too_many(target, pixels=self.pixels, channels=self.channels, rows=self.rows)

    def grid(self, conv: XnorConv2d, target: Target) -> Grid:
        return Grid(conv.filters, conv.groups, SLICE, self.pixels, conv.parts, self.rows, self.rows_first)

    def arrange(self, weights: npt.NDArray[np.uint8], conv: XnorConv2d, target: Target) -> npt.NDArray[np.uint8]:
        return _blocked(weights, conv, size=target.vector_bits // 8, lanes=self.channels, multiple=SLICE)

    def count(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> Counts:
        """From counts that lie in memory, because a tile may have fewer channels than a slice."""
        lanes, pixels = target.popcount_lanes, self.rows * self.pixels
        channels = vectors * SLICE
        counts = T.alloc_buffer((pixels * channels,), "int32", scope="local")
        at = T.Bind(conv.first_tap(place.n, place.y, place.x) * conv.groups + place.group)
        window = _window(conv, conv.group_bytes // lanes, lanes)
        tile = byte_counts.Tile(self.pixels, self.channels, self.rows, self.loops)
        with T.serial(0, channels // self.channels) as part:
            first = T.Bind(part * self.channels)
            weights_at = T.Bind((place.block * SLICE + first) * conv.filter_bytes)
            totals = byte_counts.accumulate(window, tile, target, bits, at * conv.group_bytes, weights, weights_at)
            sums = [total[ramp(0, lanes // 2)] for total in totals]
            together = min(self.channels, 4)  # of four sums, those of one pixel
            for number in range(0, len(sums), 4):
                four = sums[number : number + 4]
                added = registers.cast(pairwise.across(four + four[:1] * (4 - len(four)), target), "int32", 4)
                for lane in range(0, len(four), together):
                    pixel, channel = divmod(number + lane, self.channels)
                    some = [tirx.const(lane + i, "int32") for i in range(together)]
                    where = ramp(first + (pixel * channels + channel), together)
                    T.buffer_store(counts, added if together == 4 else tirx.Shuffle([added], some), [where])
        return lambda pixel, first: T.Bind(counts[ramp(tirx.const(pixel * channels + first, "int32"), SLICE)])


SCHEDULES: tuple[type[XnorSchedule], ...] = (WordLanes, ChannelLanes, WindowLanes)


def windows_fit(conv: XnorConv2d, target: Target) -> bool:
    """Whether a pixel has whole vectors of bytes, and a window no more bits than 16 bits count."""
    return conv.group_bytes % (target.vector_bits // 8) == 0 and 8 * conv.filter_bytes < 1 << 16


def _slices(totals: list[Buffer], vectors: int, lanes: int) -> Counts:
    def slice_of(pixel: int, first: int) -> Expr:
        total = totals[pixel * vectors + first // lanes]
        return T.Bind(registers.cast(total[ramp(first % lanes, SLICE)], "int32", SLICE))

    return slice_of


def _window(conv: XnorConv2d, words: int, word_bytes: int) -> byte_counts.Window:
    pixel = conv.groups * conv.group_bytes
    return byte_counts.Window(
        conv.kernel,
        words,
        word_bytes,
        row=conv.dilations[0] * conv.in_width * pixel,
        column=conv.dilations[1] * pixel,
        pixel=conv.strides[1] * pixel,
        below=conv.strides[0] * conv.in_width * pixel,
    )


# The default ---------------------------------------------------------------------------------------------------------


def default(conv: XnorConv2d, target: Target) -> XnorSchedule:
    """The schedule of least cost among the target's tiles; earlier ones win ties."""
    rows_first = conv.filter_bytes * conv.group_channels <= L1_WEIGHTS
    tiles = (target.binary_1x1 if conv.kernel[1] == 1 else None) or target.binary
    if isinstance(tiles, ByteTiles):
        return _cheapest(conv, target, tiles, rows_first)
    if conv.parts > 1:
        tiles = replace(tiles, extents=tuple(_whole(conv, target, *tile) for tile in tiles.extents))
    pixels, vectors = best_tile(tiles, conv.output.width, -(-conv.group_channels // target.popcount_lanes))
    if target.lane_bits == 64:
        return WordLanes(pixels, rows_first, vectors)
    return ChannelLanes(pixels, rows_first, 1, *_LOOPS, vectors)


def _whole(conv: XnorConv2d, target: Target, pixels: int, vectors: int) -> tuple[int, int]:
    """A tile like this one that holds whole slices of all parts, in about as many registers."""
    legal = min(_vectors(conv, target), key=lambda n: (abs(n - vectors), n))
    return max(1, pixels * vectors // legal), legal


_LOOPS = (byte_counts.UNROLL[0], byte_counts.COLUMNS[0], byte_counts.TOGETHER[0])

_CHAINS = 8  # sums that must grow side by side to hide the latency of eor, cnt and add
_SHARED_TAPS = 10  # of a window that tiles of several rows count at once: three words of each still fit a byte lane
_L1_TILE = 24 * 1024  # bytes of a tile's weights that stay in a first-level cache of 32 KiB, beside everything else
_L2_COST = 1.05  # times as long where they come from the second level each time
_WINDOW_BYTES = 1 << 13  # of a filter, from which on its bits might pass 16 bits
# Vector-pipe instructions for each sum and word: to flush bytes into 16 bits every 27 words or so, and, for each sum
# that is finished, to add up lanes that are bytes.
_FLUSH_CHANNELS, _FLUSH_WINDOWS, _ADD_LANES = 0.19, 0.08, 1.75


def _cheapest(conv: XnorConv2d, target: Target, tiles: ByteTiles, rows_first: bool) -> XnorSchedule:
    """By instructions of the vector pipes: eor, cnt and add for each sum and word, wasted sums included, and what it
    takes to flush sums and to add lanes up.

    A row of the window is read once for all its columns, and in a tile of several rows once for all rows of the output
    that it reaches, which is where many pixels save; many vectors save by using each word more often.
    """
    lanes, out, (kernel_h, kernel_w) = target.popcount_lanes, conv.output, conv.kernel
    reduction, channels = conv.filter_bytes, conv.group_channels
    shares_rows = 1 < kernel_h * kernel_w <= _SHARED_TAPS
    found: list[ByteLanes] = []
    for pixels, vectors, rows in tiles.channels:
        if rows == 1 or (shares_rows and out.rows % rows == 0):
            vectors = min(vectors, -(-channels // lanes))
            if conv.parts > 1:
                pixels, vectors = _whole(conv, target, pixels, vectors)
            found.append(ChannelLanes(min(pixels, out.width), rows_first, rows, *_LOOPS, vectors))
    for pixels, together, rows in tiles.windows:
        if windows_fit(conv, target) and reduction < _WINDOW_BYTES:
            found.append(WindowLanes(min(pixels, out.width), rows_first, rows, *_LOOPS, together))

    def cost(schedule: ByteLanes) -> float:
        by_window = isinstance(schedule, WindowLanes)
        vectors = schedule.channels if isinstance(schedule, WindowLanes) else cast(ChannelLanes, schedule).vectors
        pixels = schedule.pixels * schedule.rows
        multiple = SLICE * conv.parts if by_window else lanes * vectors
        computed = -(-out.width // schedule.pixels) * schedule.pixels * (-(-channels // multiple) * multiple)
        window = (schedule.pixels + kernel_w - 1) * (schedule.rows + kernel_h - 1)
        reads = window / (pixels * kernel_w * kernel_h * vectors)
        reading = reads * (tiles.load if by_window else tiles.broadcast) + tiles.load / pixels
        ending = _FLUSH_WINDOWS + _ADD_LANES * lanes / reduction if by_window else _FLUSH_CHANNELS
        stalls = max(1.0, _CHAINS / (pixels * vectors))
        weights = vectors * reduction * (1 if by_window else lanes)
        return computed * (3 + reading + ending) * stalls * (_L2_COST if weights > _L1_TILE else 1.0)

    return min(found, key=cost)
