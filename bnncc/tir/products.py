"""The float32 multiply-accumulate that convolutions and dense layers share: pixels x vectors accumulators in registers.

Lanes are output channels. One value of each pixel is broadcast and multiplied with `vectors` vectors of weights; the
loops over the window are outside the tile. LLVM fuses each multiply and add where the machine can (FMA).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm.tirx.script.builder import ir as T

from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Buffer, Expr, load, ramp, splat, zeros
from bnncc.tir.tiles import slices


@dataclass(frozen=True)
class Reduction:
    """Extents of the loops (rows, columns, channels of the window) and what each steps over in the input, in floats;
    `pixel` is the step from one output pixel to the next."""

    extents: tuple[int, int, int]
    strides: tuple[int, int, int]
    pixel: int

    @property
    def size(self) -> int:
        """Products in one output value."""
        return self.extents[0] * self.extents[1] * self.extents[2]


def arrange(weights: npt.NDArray[np.float32], lanes: int) -> npt.NDArray[np.float32]:
    """[groups, reduction, channels] -> [groups, blocks, reduction, lanes], one behind the other; a block is one vector
    of output channels, the last one filled up with zeros."""
    groups, reduction, channels = weights.shape
    padded = np.pad(weights, [(0, 0), (0, 0), (0, -channels % lanes)])
    blocks = padded.reshape(groups, reduction, -1, lanes).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks, dtype=np.float32).reshape(-1)


def accumulate(
    source: Buffer, at: Expr, weights: Buffer, block: Expr, reduction: Reduction, pixels: int, vectors: int, lanes: int
) -> list[Buffer]:
    """Sums of `pixels` pixels, the first one's window starting at `source[at]`, by `vectors` vectors from `block` on:
    pixel p, vector v is number p * vectors + v."""
    everything = ramp(0, lanes)
    sums = zeros(pixels * vectors, "float32", lanes)
    first = T.Bind(block * (reduction.size * lanes))
    rows, columns, channels = reduction.extents
    with T.serial(0, rows) as i, T.serial(0, columns) as j, T.serial(0, channels) as k:
        row = first + ((i * columns + j) * channels + k) * lanes
        values = [load(weights, row + v * (reduction.size * lanes), lanes) for v in range(vectors)]
        from_here = at + i * reduction.strides[0] + j * reduction.strides[1] + k * reduction.strides[2]
        for p in range(pixels):
            x = T.Bind(splat(source[from_here + p * reduction.pixel], lanes))
            for v in range(vectors):
                total = sums[p * vectors + v]
                T.buffer_store(total, total[everything] + x * values[v], [everything])
    return sums


def finish(
    sums: list[Buffer],
    epilogue: ep.Epilogue,
    geometry: ep.Geometry,
    pixels: list[ep.Pixel],
    channel: Expr,
    channels: int,
    lanes: int,
    params: list[Buffer],
    outputs: list[Buffer],
) -> None:
    """Run the epilogue on a tile whose `channels` channels start at `channel`."""
    vectors = len(sums) // len(pixels)
    for first, width, valid in slices(channels, lanes):
        parts = [sums[p * vectors + first // lanes][ramp(first % lanes, width)] for p in range(len(pixels))]
        values = [T.Bind(part) for part in parts]
        ep.emit_pixels(epilogue, geometry, pixels, T.Bind(channel + first), values, width, valid, params, outputs)
