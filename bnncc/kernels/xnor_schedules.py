"""The schedules of a binary convolution: what the lanes of its accumulators are, and how many are held in registers.

Three classes, each with the constants' arrangement and the counting loop that go with it:

- `WordLanes`: 64-bit lanes (VPOPCNTDQ), one for each output channel; a word of the window is broadcast.
- `ChannelLanes`: byte lanes, one for each output channel; a byte of the window is broadcast.
- `WindowLanes`: byte lanes along the window, one output channel at a time; they are added up at the end.

How bytes are counted is in tir/byte_counts.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Kernel
from bnncc.kernels.schedule import MOST_VECTORS, Choices, Schedule, up_to
from bnncc.kernels.tile_schedule import too_many
from bnncc.targets.target import Target
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
    """Where a tile lies: image, group, its first block of channels counted over all groups, its first output pixel.
    weights: where block 0 begins in the weights."""

    n: Expr
    group: Expr
    block: Expr
    y: Expr
    x: Expr
    weights: Expr = 0


class Halves(NamedTuple):
    """Counts of the channels of a tile from `first` on: (pixel) -> int16 vector of `lanes`."""

    first: int
    lanes: int
    of: Callable[[int], Expr]


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

    def order(self, conv: XnorConv2d, target: Target) -> npt.NDArray[np.int64]:
        """The order of output channels, int64 [O], in which `arrange` has to get the weights that `halves` counts."""
        return np.arange(conv.output.channels)

    def halves(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> list[Halves]:
        """As `count`, times `bit_weight`, in 16 bits: pieces that cover the tile's channels in order."""
        counts, shift = self.count(conv, target, vectors, bits, weights, place), conv.bit_weight - 1

        def piece(first: int) -> Halves:
            def counted(pixel: int) -> Expr:
                return _shifted(registers.cast(counts(pixel, first), "int16", SLICE), "int16", SLICE, shift)

            return Halves(first, SLICE, counted)

        return [piece(first) for first in range(0, vectors * self.grid(conv, target).lanes, SLICE)]


def _shared(conv: XnorConv2d, target: Target) -> dict[str, tuple[int, ...]]:
    """The choices of all three classes."""
    return {"pixels": up_to(min(conv.output.width, target.registers)), "rows_first": (False, True)}


def vector_choices(conv: XnorConv2d, target: Target) -> tuple[int, ...]:
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
    words = weights.reshape(conv.groups, channels, taps, weights.shape[2] // size, size)
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
        return _shared(conv, target) | {"vectors": vector_choices(conv, target)}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        return too_many(target, pixels=self.pixels, vectors=self.vectors)

    def grid(self, conv: XnorConv2d, target: Target) -> Grid:
        return Grid(
            conv.filters,
            conv.filter_groups,
            target.popcount_lanes,
            self.pixels,
            self.vectors,
            rows=1,
            rows_first=self.rows_first,
        )

    def arrange(self, weights: npt.NDArray[np.uint8], conv: XnorConv2d, target: Target) -> npt.NDArray[np.uint8]:
        lanes = target.popcount_lanes
        return _blocked(weights, conv, size=conv.weight_bytes(target), lanes=lanes, multiple=lanes)

    def count(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> Counts:
        return _slices(self._totals(conv, target, vectors, bits, weights, place), vectors, target.popcount_lanes)

    def order(self, conv: XnorConv2d, target: Target) -> npt.NDArray[np.int64]:
        """Of the vectors of a piece the channels alternate."""
        channels, lanes, found = conv.group_channels, target.popcount_lanes, []
        if channels % lanes:
            return super().order(conv, target)
        for start in range(0, channels, self.vectors * lanes):
            for first, size in _pieces(min(self.vectors, (channels - start) // lanes)):
                here = start + first * lanes + np.arange(size * lanes).reshape(lanes, size).T.reshape(-1)
                found.append(here)
        one = np.concatenate(found)
        return (np.arange(conv.groups)[:, None] * channels + one).reshape(-1)

    def halves(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> list[Halves]:
        """Sums of four vectors put side by side in each word are those of 32 channels in order: nothing is shuffled."""
        lanes = target.popcount_lanes
        if conv.group_channels % lanes:
            return super().halves(conv, target, vectors, bits, weights, place)
        totals, shift = self._totals(conv, target, vectors, bits, weights, place), conv.bit_weight - 1

        def piece(first: int, size: int) -> Halves:
            def counted(pixel: int) -> Expr:
                parts = [totals[pixel * vectors + first + i][ramp(0, lanes)] for i in range(size)]
                apart = target.lane_bits // size
                parts = [_shifted(one, "uint64", lanes, apart * i + shift) for i, one in enumerate(parts)]
                word = parts[0]
                for one in parts[1:]:
                    word = T.bitwise_or(word, one)
                every = T.reinterpret(f"int{apart}x{size * lanes}", word)
                return T.Bind(every if apart == 16 else registers.cast(every, "int16", size * lanes))

            return Halves(first * lanes, size * lanes, counted)

        return [piece(first, size) for first, size in _pieces(vectors)]

    def _totals(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> list[Buffer]:
        """Pixel p, vector v is number p * vectors + v."""
        lanes, (kernel_h, kernel_w) = target.popcount_lanes, conv.kernel
        words = conv.group_bytes // target.word_bytes
        stored = max(1, words // conv.repeats)  # of the words at a tap, those whose weights differ
        pixel_words = conv.groups * words
        in_base = conv.first_tap(place.n, place.y, place.x)
        weight_stride = kernel_h * kernel_w * stored * lanes
        weight_base = T.Bind(place.block * weight_stride + place.weights)
        totals = zeros(self.pixels * vectors, f"uint{target.lane_bits}", lanes)
        with T.serial(0, kernel_h) as kh, T.serial(0, kernel_w) as kw, T.serial(0, stored) as word:
            tap = kh * kernel_w + kw
            first = weight_base + (tap * stored + word) * lanes
            rows = [_whole_words(load(weights, first + v * weight_stride, lanes), conv, target) for v in range(vectors)]
            column = in_base + kh * (conv.dilations[0] * conv.in_width) + kw * conv.dilations[1]
            for again, p in np.ndindex(words // stored, self.pixels):
                here = (column + p * conv.strides[1]) * pixel_words + place.group * words + again * stored + word
                window_word = T.Bind(splat(bits[here], lanes))
                for v in range(vectors):
                    total = totals[p * vectors + v]
                    at_all = ramp(0, lanes)
                    T.buffer_store(total, total[at_all] + T.popcount(window_word ^ rows[v]), [at_all])
        return totals


def _whole_words(weights: Expr, conv: XnorConv2d, target: Target) -> Expr:
    """Weights that are shorter than a word, repeated to fill it."""
    bits = 8 * conv.weight_bytes(target)
    if bits == target.lane_bits:
        return weights
    whole = T.Bind(registers.cast(weights, f"uint{target.lane_bits}", target.popcount_lanes))
    while bits < target.lane_bits:
        shift = splat(tirx.const(bits, f"uint{target.lane_bits}"), target.popcount_lanes)
        whole = T.Bind(T.bitwise_or(whole, T.shift_left(whole, shift)))
        bits *= 2
    return whole


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
        return _byte_choices(conv, target) | {"vectors": vector_choices(conv, target)}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        return too_many(target, pixels=self.pixels, vectors=self.vectors, rows=self.rows)

    def grid(self, conv: XnorConv2d, target: Target) -> Grid:
        return Grid(
            conv.filters,
            conv.filter_groups,
            target.popcount_lanes,
            self.pixels,
            self.vectors,
            self.rows,
            self.rows_first,
        )

    def arrange(self, weights: npt.NDArray[np.uint8], conv: XnorConv2d, target: Target) -> npt.NDArray[np.uint8]:
        lanes = target.popcount_lanes
        return _blocked(weights, conv, size=1, lanes=lanes, multiple=lanes)

    def count(
        self, conv: XnorConv2d, target: Target, vectors: int, bits: Buffer, weights: Buffer, place: Place
    ) -> Counts:
        lanes, words = target.popcount_lanes, conv.group_bytes
        in_base = conv.first_tap(place.n, place.y, place.x)
        weight_base = T.Bind(place.block * (conv.stored_bytes * lanes) + place.weights)
        at = T.Bind(in_base * (conv.groups * words) + place.group * words)
        tile = byte_counts.Tile(self.pixels, vectors, self.rows, self.loops)
        window = conv.byte_window(words, 1) if conv.repeats == 1 else conv.repeated_window()
        totals = byte_counts.accumulate(window, tile, target, bits, at, weights, weight_base)
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
        window = conv.byte_window(conv.group_bytes // lanes, lanes)
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
    whole = conv.group_bytes % (target.vector_bits // 8) == 0
    return whole and 8 * conv.filter_bytes < 1 << 16 and WindowLanes in conv.schedule_kinds


def _slices(totals: list[Buffer], vectors: int, lanes: int) -> Counts:
    def slice_of(pixel: int, first: int) -> Expr:
        total = totals[pixel * vectors + first // lanes]
        return T.Bind(registers.cast(total[ramp(first % lanes, SLICE)], "int32", SLICE))

    return slice_of


def _pieces(vectors: int) -> Iterator[tuple[int, int]]:
    """(first, size) of pieces of 4, 2 and 1 vectors."""
    first = 0
    while first < vectors:
        size = next(size for size in (4, 2, 1) if first + size <= vectors)
        yield first, size
        first += size


def _shifted(value: Expr, dtype: str, lanes: int, bits: int) -> Expr:
    return T.shift_left(value, splat(tirx.const(bits, dtype), lanes)) if bits else value
