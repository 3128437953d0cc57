"""Float32 convolution with its epilogue in registers.

The input is NHWC, or NCHW for a network's first layer: the window is read one float at a time, so either is as fast
and nothing has to be transposed. A padded input is first copied into a workspace with its zeros, one image at a time,
by a kernel of its own; that costs a few percent of the products and keeps the loops free of conditions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target, Work
from bnncc.tir import epilogue as ep
from bnncc.tir import products
from bnncc.tir.copies import copy, fill
from bnncc.tir.registers import Expr
from bnncc.tir.shares import share, within
from bnncc.tir.tiles import Grid, arg, epilogue_args, float_lanes, float_tile


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
    """The kernel: (input, weights, workspace unless it has 0 bytes, *epilogue params, *outputs, begin, end) -> 0; units
    as `Grid` says. The workspace holds the padded image that the units belong to, as `build_padding` wrote it."""
    lanes, out = float_lanes(target), shape.output
    in_group, out_group = shape.in_channels // shape.groups, out.channels // shape.groups
    reduction = _reduction(shape, in_group)
    tile = float_tile(target, Work("conv2d", out.width, out_group, reduction.size))
    grid = Grid(out, shape.groups, lanes, tile, 4 * reduction.size * out_group)
    blocks = -(-out_group // lanes)
    rows, width = shape.read if shape.padded else (shape.in_rows, shape.in_width)
    channel_step = rows * width if shape.nchw else 1
    with IRBuilder() as ib, T.prim_func():
        inputs = arg("input", "float32")
        weights = arg("weights", "float32")
        source = arg("workspace", "float32") if shape.padded else inputs
        params, outputs = epilogue_args(epilogue)
        part = share(grid.units)
        part.once(lambda: ep.emit_borders(epilogue, out, outputs))

        def emit(n: Expr, group: Expr, block: Expr, vectors: int, channels: int, y: Expr, x: Expr) -> None:
            image = 0 if shape.padded else n * (rows * width * shape.in_channels)
            at = image + group * (in_group * channel_step) + x * reduction.pixel
            at = T.Bind(at + y * (reduction.strides[0] // shape.dilations[0] * shape.strides[0]))
            sums = products.accumulate(
                source, at, weights, group * blocks + block, reduction, tile.pixels, vectors, lanes
            )
            pixels = [ep.Pixel(n, y, x + p) for p in range(tile.pixels)]
            channel = group * out_group + block * lanes
            products.finish(sums, epilogue, out, pixels, channel, channels, lanes, params, outputs)

        grid.walk(part, emit)
    return ib.get()


def build_padding(shape: Shape, target: Target) -> tirx.PrimFunc:
    """The kernel that copies what the windows reach of an image into the workspace, with its zeros: (input, workspace,
    begin, end) -> 0. A unit is a row of one padded image; a call's units are all of the same image."""
    lanes, (rows, width), (top, left) = float_lanes(target), shape.read, shape.pads[:2]
    # An NCHW image is a stack of planes of one float a pixel, an NHWC image one plane.
    planes, pixel = (shape.in_channels, 1) if shape.nchw else (1, shape.in_channels)
    kept_rows, kept = max(0, min(shape.in_rows, rows - top)), max(0, min(shape.in_width, width - left))
    top = min(top, rows)
    with IRBuilder() as ib, T.prim_func():
        source, workspace = arg("input", "float32"), arg("workspace", "float32")
        part = share(shape.output.batch * rows)
        with T.serial(0, shape.output.batch) as n, T.serial(0, planes) as plane:
            whole = part.of(n * rows, rows)

            def zeros(begin: int, end: int) -> None:
                with within(whole, begin, end) as y:
                    fill(workspace, T.Bind((plane * rows + y) * (width * pixel)), 0, width * pixel, lanes)

            zeros(0, top)
            with within(whole, top, top + kept_rows) as y:
                row = T.Bind((plane * rows + y) * (width * pixel))
                from_row = ((n * planes + plane) * shape.in_rows + y - top) * (shape.in_width * pixel)
                fill(workspace, row, 0, min(left, width) * pixel, lanes)
                copy(workspace, row + left * pixel, source, T.Bind(from_row), kept * pixel, lanes)
                if width > left + kept:
                    fill(workspace, row + (left + kept) * pixel, 0, (width - left - kept) * pixel, lanes)
            zeros(top + kept_rows, rows)
    return ib.get()


def _reduction(shape: Shape, in_group: int) -> products.Reduction:
    rows, width = shape.read if shape.padded else (shape.in_rows, shape.in_width)
    column, channel = (1, rows * width) if shape.nchw else (shape.in_channels, 1)
    strides = (shape.dilations[0] * width * column, shape.dilations[1] * column, channel)
    return products.Reduction((*shape.kernel, in_group), strides, shape.strides[1] * column)
