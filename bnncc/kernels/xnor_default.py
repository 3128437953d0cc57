"""The default schedule of a binary convolution: the one of least cost among the target's tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from bnncc.kernels.tile_schedule import L1_WEIGHTS, best_tile
from bnncc.kernels.xnor_schedules import (
    ByteLanes,
    ChannelLanes,
    WindowLanes,
    WordLanes,
    XnorSchedule,
    vector_choices,
    windows_fit,
)
from bnncc.targets.target import ByteTiles, Target
from bnncc.tir import byte_counts
from bnncc.tir.tiles import SLICE

if TYPE_CHECKING:
    from bnncc.kernels.xnor_conv2d import XnorConv2d


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
    legal = min(vector_choices(conv, target), key=lambda n: (abs(n - vectors), n))
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
