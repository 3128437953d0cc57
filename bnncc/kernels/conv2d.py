"""Float32 convolution with its epilogue in registers.

The input is NHWC, or NCHW for a network's first layer: the window is read one float at a time, so either is as fast
and nothing has to be transposed. A padded input is first copied into a workspace with its zeros, one image at a time,
by a kernel of its own (pad_images.py); that costs a few percent of the products and keeps the loops free of
conditions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Arithmetic, Array, positions
from bnncc.kernels.pad_images import PadImages
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.tile_schedule import ConvSchedule, TiledConvolution
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir import products
from bnncc.tir.registers import Expr
from bnncc.tir.shares import share
from bnncc.tir.tiles import Grid, arg, epilogue_args, float_lanes


@dataclass(frozen=True)
class Conv2d(TiledConvolution):
    """Extents of one convolution. Input [N, in_rows, in_width, in_channels], or [N, in_channels, in_rows, in_width]
    when `nchw`; pads are (top, left, bottom, right) zeros around it. Weights are float32 HWIO."""

    kind: ClassVar[str] = "conv2d"
    arithmetic: ClassVar[Arithmetic] = "float32"

    output: ep.Geometry
    in_rows: int
    in_width: int
    in_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    nchw: bool = False

    @property
    def group_channels(self) -> int:
        return self.output.channels // self.groups

    @property
    def macs(self) -> int:
        return positions(self.output) * self.reduction.size

    def weight_bytes(self, target: Target) -> int:
        return 4 * self.reduction.size * self.group_channels

    @property
    def read(self) -> tuple[int, int]:
        """Rows and columns, padding included, that the windows reach."""
        extents = (self.output.rows, self.output.width)
        rows, width = (
            (extent - 1) * stride + (kernel - 1) * dilation + 1
            for extent, stride, kernel, dilation in zip(extents, self.strides, self.kernel, self.dilations, strict=True)
        )
        return rows, width

    @property
    def padded(self) -> bool:
        """Whether windows reach outside the input."""
        rows, width = self.read
        return any(self.pads[:2]) or rows > self.in_rows or width > self.in_width

    @property
    def reduction(self) -> products.Reduction:
        """The loops over a window."""
        rows, width = self.read if self.padded else (self.in_rows, self.in_width)
        column, channel = (1, rows * width) if self.nchw else (self.in_channels, 1)
        strides = (self.dilations[0] * width * column, self.dilations[1] * column, channel)
        extents = (*self.kernel, self.in_channels // self.groups)
        return products.Reduction(extents, strides, self.strides[1] * column)

    def workspace_bytes(self) -> int:
        rows, width = self.read
        return 4 * rows * width * self.in_channels if self.padded else 0

    def filler(self) -> PadImages | None:
        if not self.padded:
            return None
        rows, width = self.read
        source = ep.Geometry(self.output.batch, self.in_rows, self.in_width, self.in_channels)
        return PadImages(
            ep.Geometry(self.output.batch, rows, width, self.in_channels), source, self.pads[:2], self.nchw
        )

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        lanes, image = float_lanes(target), (self.in_rows, self.in_width)
        shape = (self.in_channels, *image) if self.nchw else (*image, self.in_channels)
        blocks = self.groups * -(-self.group_channels // lanes)
        return (
            Argument("input", "input", "float32", (self.output.batch, *shape)),
            Argument("weights", "constant", "float32", (blocks * self.reduction.size * lanes,)),
        )

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """HWIO [KH, KW, C / groups, O] -> [groups, blocks, KH, KW, C / groups, lanes], one behind the other."""
        (weights,) = constants
        grouped = weights.reshape(-1, self.groups, self.group_channels).transpose(1, 0, 2)
        return (products.arrange(grouped.astype(np.float32), float_lanes(target)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Units as `Grid` says. The workspace holds the padded image that the units belong to."""
        assert isinstance(schedule, ConvSchedule)
        lanes, out = float_lanes(target), self.output
        in_group, out_group = self.in_channels // self.groups, self.group_channels
        reduction = self.reduction
        grid = Grid(out, self.groups, lanes, schedule.pixels, schedule.vectors, 1, schedule.rows_first)
        blocks = -(-out_group // lanes)
        rows, width = self.read if self.padded else (self.in_rows, self.in_width)
        channel_step = rows * width if self.nchw else 1
        with IRBuilder() as ib, T.prim_func():
            inputs, weights = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            source = arg("workspace", "float32") if self.padded else inputs
            params, outputs = epilogue_args(epilogue)
            part = share(grid.units)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def emit(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
                image = 0 if self.padded else n * (rows * width * self.in_channels)
                at = image + group * (in_group * channel_step) + x * reduction.pixel
                at = T.Bind(at + y * (reduction.strides[0] // self.dilations[0] * self.strides[0]))
                sums = products.accumulate(
                    source, at, weights, group * blocks + block, reduction, grid.pixels, vectors, lanes
                )
                pixels = [ep.Pixel(n, y, x + p) for p in range(grid.pixels)]
                channel = group * out_group + block * lanes
                products.finish(sums, epilogue, out, pixels, channel, channels, lanes, params, outputs)

            grid.walk(part, emit)
        return ib.get()
