"""Float32 convolution with its epilogue in registers.

The input is NHWC, or NCHW for a network's first layer: the window is read one float at a time, so either is as fast
and nothing has to be transposed. A padded input is first copied into a workspace with its zeros, one image at a time;
that costs a few percent of the products and keeps the loops free of conditions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels import epilogue as ep
from bnncc.kernels import products
from bnncc.kernels.copies import copy, fill
from bnncc.kernels.registers import Buffer, Expr
from bnncc.kernels.tiles import arg, epilogue_args, float_lanes, float_tile, walk_tiles
from bnncc.targets.target import Target, Work

_L1_WEIGHTS = 16 * 1024  # weights up to this many bytes stay in the first-level cache while rows are walked


@dataclass(frozen=True)
class Shape:
    """Extents of one convolution. Input [N, in_rows, in_width, in_channels], or [N, in_channels, in_rows, in_width]
    when `nchw`; pads are (top, left, bottom, right) zeros around it."""

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


def workspace_bytes(shape: Shape, target: Target) -> int:
    """Bytes of the parameter `workspace`; 0 when the kernel has none."""
    rows, width = shape.read
    return 4 * rows * width * shape.in_channels if shape.padded else 0


def arrange_weights(weights: npt.NDArray[np.float32], groups: int, target: Target) -> npt.NDArray[np.float32]:
    """HWIO [KH, KW, C / groups, O] -> [groups, blocks, KH, KW, C / groups, lanes], one behind the other."""
    channels = weights.shape[3] // groups
    grouped = weights.reshape(-1, groups, channels).transpose(1, 0, 2)
    return products.arrange(grouped, float_lanes(target))


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, weights, workspace unless it has 0 bytes, *epilogue params, *outputs) -> 0."""
    lanes, out = float_lanes(target), shape.output
    in_group, out_group = shape.in_channels // shape.groups, out.channels // shape.groups
    reduction = _reduction(shape, in_group)
    tile = float_tile(target, Work("conv2d", out.width, out_group, reduction.size))
    blocks = -(-out_group // lanes)
    rows, width = shape.read if shape.padded else (shape.in_rows, shape.in_width)
    channel_step = rows * width if shape.nchw else 1
    with IRBuilder() as ib, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        inputs = arg("input", "float32")
        weights = arg("weights", "float32")
        source = arg("workspace", "float32") if shape.padded else inputs
        params, outputs = epilogue_args(epilogue)
        ep.emit_borders(epilogue, out, outputs)
        with T.serial(0, out.batch) as n:
            if shape.padded:
                _pad(shape, inputs, n * (shape.in_rows * shape.in_width * shape.in_channels), source, lanes)
            image = tirx.const(0, "int32") if shape.padded else n * (rows * width * shape.in_channels)
            with T.serial(0, shape.groups) as group:

                def emit(block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
                    at = image + group * (in_group * channel_step) + x * reduction.pixel
                    at = T.Bind(at + y * (reduction.strides[0] // shape.dilations[0] * shape.strides[0]))
                    sums = products.accumulate(
                        source, at, weights, group * blocks + block, reduction, tile.pixels, vectors, lanes
                    )
                    pixels = [ep.Pixel(n, y, x + p) for p in range(tile.pixels)]
                    channel = group * out_group + block * lanes
                    products.finish(sums, epilogue, out, pixels, channel, channels, lanes, params, outputs)

                rows_first = 4 * reduction.size * out_group <= _L1_WEIGHTS
                walk_tiles(out.rows, out.width, out_group, lanes, tile, rows_first=rows_first, emit=emit)
    return ib.get()


def _reduction(shape: Shape, in_group: int) -> products.Reduction:
    rows, width = shape.read if shape.padded else (shape.in_rows, shape.in_width)
    column, channel = (1, rows * width) if shape.nchw else (shape.in_channels, 1)
    strides = (shape.dilations[0] * width * column, shape.dilations[1] * column, channel)
    return products.Reduction((*shape.kernel, in_group), strides, shape.strides[1] * column)


def _pad(shape: Shape, source: Buffer, image: Expr, workspace: Buffer, lanes: int) -> None:
    """Copy what the windows reach of one image, from `source[image]` on, into the workspace, with its zeros."""
    rows, width = shape.read
    top, left = shape.pads[:2]
    # An NCHW image is a stack of planes of one float a pixel, an NHWC image one plane.
    planes, pixel = (shape.in_channels, 1) if shape.nchw else (1, shape.in_channels)
    kept_rows, kept = max(0, min(shape.in_rows, rows - top)), max(0, min(shape.in_width, width - left))
    with T.serial(0, planes) as plane:
        to = T.Bind(plane * (rows * width * pixel))
        fill(workspace, to, 0, min(top, rows) * width * pixel, lanes)
        with T.serial(0, kept_rows) as y:
            row = T.Bind(to + (y + top) * (width * pixel))
            from_row = image + (plane * shape.in_rows + y) * (shape.in_width * pixel)
            fill(workspace, row, 0, min(left, width) * pixel, lanes)
            copy(workspace, row + left * pixel, source, T.Bind(from_row), kept * pixel, lanes)
            if width > left + kept:
                fill(workspace, row + (left + kept) * pixel, 0, (width - left - kept) * pixel, lanes)
        if rows > top + kept_rows:
            fill(workspace, to + (top + kept_rows) * width * pixel, 0, (rows - top - kept_rows) * width * pixel, lanes)
