"""Binary convolution on packed bits, with its epilogue in registers.

acc[n, y, x, o] = offset[row_class[y], col_class[x], o] - step * popcount(window ^ w[o])

Words of the window are xor-ed with `vectors` vectors of weights and counted into a tile of `pixels` x `vectors`
accumulators that never leaves the registers; the loops over the window are outside the tile. There is no im2col. With
64-bit lanes (VPOPCNTDQ) lanes are output channels, a word is broadcast, and the accumulators are the lanes themselves.
Byte lanes (byte_counts.py) are output channels too, or bytes of the window, which are added up at the end.

Zero padding costs nothing in the loops: borders hold 0 bits, and `offset` has a row for each of the (at most 9 for
3x3) border classes that adds back what those bits subtracted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target, Tile, Work
from bnncc.tir import byte_counts, pairwise
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Buffer, Expr, cast, load, ramp, splat, zeros
from bnncc.tir.shares import share
from bnncc.tir.tiles import SLICE, Grid, arg, epilogue_args


@dataclass(frozen=True)
class Shape:
    """Extents of one binary convolution. Input [N, in_rows, in_width, groups * group_bytes] is padded already."""

    output: ep.Geometry
    in_rows: int
    in_width: int
    group_bytes: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    groups: int
    step: int
    classes: tuple[int, int]

    @property
    def group_channels(self) -> int:
        """Output channels of one group."""
        return self.output.channels // self.groups

    @property
    def words(self) -> int:
        """Bytes of one filter."""
        return self.kernel[0] * self.kernel[1] * self.group_bytes

    def tile(self, target: Target) -> Tile:
        """What the target's rules choose."""
        out, reduction = self.output, self.words // target.word_bytes
        work = Work("xnor_conv2d", out.width, self.group_channels, reduction, self.kernel[1], self.kernel[0], out.rows)
        return target.tile(work)


def arrange_weights(weights: npt.NDArray[np.uint8], shape: Shape, target: Target) -> npt.NDArray[np.uint8]:
    """[O, T, group_bytes] -> words as the kernel reads them, one behind the other.

    Where lanes are channels: [groups, blocks, T, words, lanes]; a block is one vector of output channels. Where they
    are bytes of the window: [groups, channels / vectors, T, words, vectors], a word being one vector of bytes. The last
    vector of channels, or SLICE of them, is filled up with zeros.
    """
    taps, channels, tile = weights.shape[1], shape.group_channels, shape.tile(target)
    lanes, size, multiple = target.popcount_lanes, target.word_bytes, target.popcount_lanes
    if tile.lanes == "bytes":
        lanes, size, multiple = tile.vectors, target.vector_bits // 8, SLICE
    words = weights.reshape(shape.groups, channels, taps, shape.group_bytes // size, size)
    words = np.pad(words, [(0, 0), (0, -channels % multiple), (0, 0), (0, 0), (0, 0)])
    blocks = words.reshape(shape.groups, -1, lanes, *words.shape[2:])
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2, 5)).reshape(-1)


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (bits, weights, offset, row_class, col_class, *epilogue params, *outputs, begin, end) -> 0; units as
    `Grid` says."""
    lanes, out, tile = target.popcount_lanes, shape.output, shape.tile(target)
    in_bytes = tile.lanes == "bytes"
    if in_bytes:  # the grid's tile: what one epilogue finishes
        lanes, tile = SLICE, replace(tile, vectors=1)
    word = f"uint{target.lane_bits}"
    blocks = -(-shape.group_channels // lanes)
    grid = Grid(out, shape.groups, lanes, tile, shape.words * shape.group_channels)
    with IRBuilder() as ib, T.prim_func():
        bits = arg("bits", word)
        weights = arg("weights", word)
        offset = arg("offset", "int32")
        classes = (arg("row_class", "int32"), arg("col_class", "int32"))
        params, outputs = epilogue_args(epilogue)
        part = share(grid.units)
        part.once(lambda: ep.emit_borders(epilogue, out, outputs))

        def emit_tile(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
            """`tile.pixels` pixels from x on in `tile.rows` rows from y on, by `vectors` vectors from `block` on,
            `channels` of them real."""
            place = n, group, group * blocks + block, y, x
            if in_bytes:
                sums = _count_bytes(shape, target, bits, weights, *place)
            else:
                sums = _count_channels(shape, target, replace(tile, vectors=vectors), bits, weights, *place)
            for first in range(0, channels, SLICE):
                valid = min(SLICE, channels - first)
                channel = T.Bind(group * shape.group_channels + block * lanes + first)
                values = ep.load_channels(epilogue, params, channel, SLICE, valid)
                plain = load(offset, channel, SLICE, valid) if shape.classes == (1, 1) else None
                for number, (row, column) in enumerate(np.ndindex(tile.rows, tile.pixels)):
                    pixel = ep.Pixel(n, y + row, x + column)
                    base = plain
                    if base is None:
                        where = classes[0][pixel.y] * shape.classes[1] + classes[1][pixel.x]
                        base = load(offset, where * out.channels + channel, SLICE, valid)
                    count = sums(number, first)
                    if shape.step == 2:
                        count = T.shift_left(count, splat(tirx.const(1, "int32"), SLICE))
                    acc = T.Bind(base - count)
                    ep.emit(epilogue, out, pixel, channel, acc, SLICE, valid, params, values, outputs)

        grid.walk(part, emit_tile)
    return ib.get()


def _count_channels(
    shape: Shape,
    target: Target,
    tile: Tile,
    bits: Buffer,
    weights: Buffer,
    n: Expr,
    group: Expr,
    block: Expr,
    y: Expr,
    x: Expr,
) -> Callable[[int, int], Expr]:
    """Count one tile whose lanes are channels. Returns a function (pixel, first channel of a slice) -> int32 vector of
    SLICE counts; pixels are numbered row by row."""
    lanes, dtype = target.popcount_lanes, f"uint{target.lane_bits}"
    words = shape.group_bytes // target.word_bytes
    kernel_h, kernel_w = shape.kernel
    pixel_words = shape.groups * words
    in_base = _first_tap(shape, n, y, x)
    weight_stride = kernel_h * kernel_w * words * lanes
    weight_base = T.Bind(block * weight_stride)

    if target.lane_bits == 8:
        at = T.Bind(in_base * pixel_words + group * words)
        totals = byte_counts.accumulate(_window(shape, words, 1), tile, target, bits, at, weights, weight_base)
    else:
        totals = zeros(tile.pixels * tile.vectors, dtype, lanes)
        with T.serial(0, kernel_h) as kh, T.serial(0, kernel_w) as kw, T.serial(0, words) as word:
            tap = kh * kernel_w + kw
            first = weight_base + (tap * words + word) * lanes
            rows = [load(weights, first + v * weight_stride, lanes) for v in range(tile.vectors)]
            column = in_base + kh * (shape.dilations[0] * shape.in_width) + kw * shape.dilations[1]
            for p in range(tile.pixels):
                here = (column + p * shape.strides[1]) * pixel_words + group * words + word
                window_word = T.Bind(splat(bits[here], lanes))
                for v in range(tile.vectors):
                    total = totals[p * tile.vectors + v]
                    at_all = ramp(0, lanes)
                    T.buffer_store(total, total[at_all] + T.popcount(window_word ^ rows[v]), [at_all])

    def slice_of(p: int, first: int) -> Expr:
        total = totals[p * tile.vectors + first // lanes]
        return T.Bind(cast(total[ramp(first % lanes, SLICE)], "int32", SLICE))

    return slice_of


def _count_bytes(
    shape: Shape, target: Target, bits: Buffer, weights: Buffer, n: Expr, group: Expr, block: Expr, y: Expr, x: Expr
) -> Callable[[int, int], Expr]:
    """Count the SLICE channels from `block` * SLICE on by a tile whose lanes are bytes of the window. Returns what
    `_count_channels` does, from counts that lie in memory, because a tile may have fewer channels than a slice."""
    tile, lanes = shape.tile(target), target.popcount_lanes
    assert shape.group_bytes % lanes == 0
    assert 8 * shape.words < 1 << 16
    pixels = tile.rows * tile.pixels
    counts = T.alloc_buffer((pixels * SLICE,), "int32", scope="local")
    at = T.Bind(_first_tap(shape, n, y, x) * shape.groups + group)
    window = _window(shape, shape.group_bytes // lanes, lanes)
    with T.serial(0, SLICE // tile.vectors) as part:
        first = T.Bind(part * tile.vectors)
        weights_at = T.Bind((block * SLICE + first) * shape.words)
        totals = byte_counts.accumulate(window, tile, target, bits, at * shape.group_bytes, weights, weights_at)
        sums = [total[ramp(0, lanes // 2)] for total in totals]
        together = min(tile.vectors, 4)  # of four sums, those of one pixel
        for number in range(0, len(sums), 4):
            four = sums[number : number + 4]
            added = cast(pairwise.across(four + four[:1] * (4 - len(four)), target), "int32", 4)
            for lane in range(0, len(four), together):
                pixel, channel = divmod(number + lane, tile.vectors)
                some = [tirx.const(lane + i, "int32") for i in range(together)]
                where = ramp(first + (pixel * SLICE + channel), together)
                T.buffer_store(counts, added if together == 4 else tirx.Shuffle([added], some), [where])
    return lambda pixel, first: T.Bind(counts[ramp(tirx.const(pixel * SLICE, "int32"), SLICE)])


def _first_tap(shape: Shape, n: Expr, y: Expr, x: Expr) -> Expr:
    """Number of the input pixel under the first tap of the output pixel (y, x) of image n."""
    return T.Bind((n * shape.in_rows + y * shape.strides[0]) * shape.in_width + x * shape.strides[1])


def _window(shape: Shape, words: int, word_bytes: int) -> byte_counts.Window:
    pixel = shape.groups * shape.group_bytes
    return byte_counts.Window(
        shape.kernel,
        words,
        word_bytes,
        row=shape.dilations[0] * shape.in_width * pixel,
        column=shape.dilations[1] * pixel,
        pixel=shape.strides[1] * pixel,
        below=shape.strides[0] * shape.in_width * pixel,
    )
