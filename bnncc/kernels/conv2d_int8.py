"""Convolution of 8-bit integers with int32 sums, and the epilogue in registers.

Lanes are output channels, as in conv2d. The input comes quantised and padded by `quantize`, in rows that hold their
pixels' channels one behind the other. The taps of one row of the window are then neighbours (without dilation): one run
of kernel width * channels values, so a window of 7 x 7 x 3 is read in 7 runs of 21, which 6 groups of 4 cover. What a
group reads past the end of its run meets weights of 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Arithmetic, Array, positions
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.tile_schedule import ConvSchedule, TiledConvolution
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.int8_dot import Dot, dot
from bnncc.tir.registers import Buffer, Expr, load, local, ramp
from bnncc.tir.shares import share
from bnncc.tir.tiles import Grid, arg, epilogue_args, float_lanes, slices


@dataclass(frozen=True)
class Conv2dInt8(TiledConvolution):
    """Extents of one convolution. Input [N, in_rows, row_elements], already padded; pixel x of a row starts at
    x * channels. Weights are int8 HWIO, bias int32 [O]."""

    kind: ClassVar[str] = "conv2d_int8"
    arithmetic: ClassVar[Arithmetic] = "int8"

    output: ep.Geometry
    in_rows: int
    row_elements: int
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)

    @property
    def macs(self) -> int:
        return positions(self.output) * self.kernel[0] * self.kernel[1] * self.channels

    @property
    def runs(self) -> tuple[int, int]:
        """Neighbouring values in one row of the window: how many runs of them, and how long each is."""
        if self.dilations[1] == 1:
            return 1, self.kernel[1] * self.channels
        return self.kernel[1], self.channels

    def dot_products(self, target: Target) -> int:
        """Groups of products in one output value."""
        runs, length = self.runs
        return self.kernel[0] * runs * -(-length // dot(target).group)

    def weight_bytes(self, target: Target) -> int:
        use = dot(target)
        return self.dot_products(target) * use.group * np.dtype(use.weights).itemsize * self.output.channels

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        use, lanes = dot(target), float_lanes(target)
        channels = -(-self.output.channels // lanes) * lanes
        return (
            Argument("input", "input", use.inputs, (self.output.batch, self.in_rows, self.row_elements)),
            Argument("weights", "constant", use.weights, (self.dot_products(target) * use.group * channels,)),
            Argument("bias", "constant", "int32", (channels,)),
        )

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """HWIO [KH, KW, C, O] and [O] -> [blocks, KH, runs, groups, vectors, group / part, lanes, part] and
        [blocks, vectors, lanes], one behind the other, filled up with zeros."""
        weights, bias = constants
        lanes, use = float_lanes(target), dot(target)
        runs, length = self.runs
        channels = weights.shape[3]
        padded = weights.reshape(self.kernel[0], runs, length, channels)
        padded = np.pad(padded, [(0, 0), (0, 0), (0, -length % use.group), (0, -channels % lanes)])
        inputs = (-1, use.group // use.part, use.part)
        outputs = (padded.shape[3] // lanes, lanes // use.lanes, use.lanes)
        split = padded.reshape(self.kernel[0], runs, *inputs, *outputs)
        arranged = np.ascontiguousarray(split.transpose(5, 0, 1, 2, 6, 3, 7, 4), dtype=use.weights)
        return arranged.reshape(-1), np.pad(bias.astype(np.int32), (0, -channels % lanes))

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Units as `Grid` says."""
        assert isinstance(schedule, ConvSchedule)
        lanes, out, use = float_lanes(target), self.output, dot(target)
        grid = Grid(out, 1, lanes, schedule.pixels, schedule.vectors, 1, schedule.rows_first)
        with IRBuilder() as ib, T.prim_func():
            inputs, weights, bias = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            params, outputs = epilogue_args(epilogue)
            part = share(grid.units)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def emit(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
                at = n * (self.in_rows * self.row_elements) + y * (self.strides[0] * self.row_elements)
                at = T.Bind(at + x * (self.strides[1] * self.channels))
                sums = self._accumulate(use, inputs, at, weights, bias, block * lanes, grid.pixels, vectors * lanes)
                pixels = [ep.Pixel(n, y, x + p) for p in range(grid.pixels)]
                for first, width, valid in slices(channels, lanes):
                    values = [T.Bind(_part(row, first, width, use.lanes)) for row in sums]
                    channel = T.Bind(block * lanes + first)
                    ep.emit_pixels(epilogue, out, pixels, channel, values, width, valid, params, outputs)

            grid.walk(part, emit)
        return ib.get()

    def _accumulate(
        self,
        use: Dot,
        inputs: Buffer,
        at: Expr,
        weights: Buffer,
        bias: Buffer,
        channel: Expr,
        pixels: int,
        channels: int,
    ) -> list[list[Buffer]]:
        """Sums of `pixels` pixels, the first one's window starting at `inputs[at]`, by the channels from `channel` on:
        for each pixel, one vector after the other."""
        runs, length = self.runs
        groups = -(-length // use.group)
        size = self.kernel[0] * runs * groups
        everything = ramp(0, use.lanes)
        parts = range(0, channels, use.lanes)
        sums = [[local("int32", use.lanes) for _ in parts] for _ in range(pixels)]
        for part, first in enumerate(parts):
            start = load(bias, channel + first, use.lanes)
            for row in sums:
                T.buffer_store(row[part], start, [everything])
        # A block of weights is as wide as a vector of the epilogue, which may be several of the machine's.
        block = max(use.lanes, 8)
        with T.serial(0, self.kernel[0]) as i, T.serial(0, runs) as j, T.serial(0, groups) as k:
            step = ((i * runs + j) * groups + k) * (block * use.group)
            rows = [
                load(
                    weights,
                    (channel + first // block * block) * (size * use.group) + step + first % block * use.group,
                    use.lanes * use.group,
                )
                for first in parts
            ]
            here = at + i * (self.dilations[0] * self.row_elements) + j * (self.dilations[1] * self.channels)
            here = here + k * use.group
            for p in range(pixels):
                values = T.Bind(use.load_inputs(inputs, here + p * (self.strides[1] * self.channels)))
                for total, row in zip(sums[p], rows, strict=True):
                    T.buffer_store(total, use.add(total[everything], values, row), [everything])
        return sums


def _part(row: list[Buffer], first: int, width: int, lanes: int) -> Expr:
    """`width` sums from channel `first` of the tile on, as one vector."""
    if width <= lanes:
        return row[first // lanes][ramp(first % lanes, width)]
    vectors = [row[(first + i) // lanes][ramp(0, lanes)] for i in range(0, width, lanes)]
    return tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in range(width)])
