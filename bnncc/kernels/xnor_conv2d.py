"""Binary convolution on packed bits, with its epilogue in registers.

acc[n, y, x, o] = offset[row_class[y], col_class[x], o] - step * popcount(window ^ w[o])

Lanes are output channels: a word of the window is broadcast, xor-ed with `vectors` vectors of weights and counted into
a tile of `pixels` x `vectors` accumulators that never leaves the registers; the loops over the window are outside the
tile. There is no im2col. With 64-bit lanes (VPOPCNTDQ) the accumulators are the lanes themselves. With byte lanes a
lane counts at most 8 per word, so it is flushed into 16 bits before it can pass 255: after at most 31 words.

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

from bnncc.kernels import byte_counts
from bnncc.kernels import epilogue as ep
from bnncc.kernels.registers import Buffer, Expr, cast, load, local, ramp, splat
from bnncc.kernels.shares import share
from bnncc.kernels.tiles import SLICE, Grid, arg, epilogue_args
from bnncc.targets.target import Target, Tile, Work


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


def arrange_weights(weights: npt.NDArray[np.uint8], groups: int, target: Target) -> npt.NDArray[np.uint8]:
    """[O, T, group_bytes] -> [groups, blocks, T, words, lanes] words, as the kernel reads them, one behind the other.

    A block is one vector of output channels; the last one is filled up with zeros.
    """
    lanes, size = target.popcount_lanes, target.word_bytes
    channels, taps, group_bytes = weights.shape[0] // groups, weights.shape[1], weights.shape[2]
    missing = -channels % lanes
    grouped = weights.reshape(groups, channels, taps, group_bytes // size, size)
    grouped = np.pad(grouped, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)])
    blocks = grouped.reshape(groups, -1, lanes, taps, group_bytes // size, size)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2, 5)).reshape(-1)


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (bits, weights, offset, row_class, col_class, *epilogue params, *outputs, begin, end) -> 0; units as
    `Grid` says."""
    lanes, out = target.popcount_lanes, shape.output
    reduction = shape.words // target.word_bytes
    window_rows, columns = shape.kernel
    work = Work("xnor_conv2d", out.width, shape.group_channels, reduction, columns, window_rows, out.rows)
    tile = target.tile(work)
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
            here = replace(tile, vectors=vectors)
            sums = _accumulate(shape, target, here, bits, weights, n, group, block, blocks, y, x)
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


def _accumulate(
    shape: Shape,
    target: Target,
    tile: Tile,
    bits: Buffer,
    weights: Buffer,
    n: Expr,
    group: Expr,
    block: Expr,
    blocks: int,
    y: Expr,
    x: Expr,
) -> Callable[[int, int], Expr]:
    """Count one tile. Returns a function (pixel, first channel of a slice) -> int32 vector of SLICE counts; pixels are
    numbered row by row."""
    lanes, dtype = target.popcount_lanes, f"uint{target.lane_bits}"
    words = shape.group_bytes // target.word_bytes
    kernel_h, kernel_w = shape.kernel
    pixel_words = shape.groups * words
    in_base = T.Bind((n * shape.in_rows + y * shape.strides[0]) * shape.in_width + x * shape.strides[1])
    weight_base = T.Bind((group * blocks + block) * (kernel_h * kernel_w * words * lanes))
    weight_stride = kernel_h * kernel_w * words * lanes

    if target.lane_bits == 8:
        window = byte_counts.Window(
            shape.kernel,
            words,
            shape.dilations[0] * shape.in_width * pixel_words,
            shape.dilations[1] * pixel_words,
            shape.strides[1] * pixel_words,
            shape.strides[0] * shape.in_width * pixel_words,
        )
        at = T.Bind(in_base * pixel_words + group * words)
        totals = byte_counts.accumulate(window, tile, lanes, bits, at, weights, weight_base)
    else:
        totals = [local(dtype, lanes) for _ in range(tile.pixels * tile.vectors)]
        _clear(totals, dtype, lanes)
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


def _clear(totals: list[Buffer], dtype: str, lanes: int) -> None:
    for total in totals:
        T.buffer_store(total, splat(tirx.const(0, dtype), lanes), [ramp(0, lanes)])
