"""What the windows of a float convolution reach of an image, with its zeros, copied into its workspace."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.copies import copy, fill
from bnncc.tir.shares import share, within
from bnncc.tir.tiles import arg, float_lanes


@dataclass(frozen=True)
class PadImages(Kernel):
    """Input `source` images, NHWC or NCHW when `nchw`; output the same with rows and columns of `output`, of which one
    image is written at a time, at the same place: the workspace. pads: zeros above and on the left."""

    kind: ClassVar[str] = "padding"

    output: ep.Geometry
    source: ep.Geometry
    pads: tuple[int, int]
    nchw: bool = False

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        source = self.source
        image = (source.rows, source.width)
        shape = (source.channels, *image) if self.nchw else (*image, source.channels)
        return (Argument("input", "input", "float32", (source.batch, *shape)),)

    def results(self, epilogue: ep.Epilogue) -> tuple[Argument, ...]:
        out = self.output
        return (Argument("workspace", "output", "float32", (out.rows * out.width * out.channels,)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row of one padded image; a call's units are all of the same image."""
        lanes, (rows, width), (top, left) = float_lanes(target), (self.output.rows, self.output.width), self.pads
        source, channels = self.source, self.source.channels
        # An NCHW image is a stack of planes of one float a pixel, an NHWC image one plane.
        planes, pixel = (channels, 1) if self.nchw else (1, channels)
        kept_rows, kept = max(0, min(source.rows, rows - top)), max(0, min(source.width, width - left))
        top = min(top, rows)
        with IRBuilder() as ib, T.prim_func():
            images, workspace = arg("input", "float32"), arg("workspace", "float32")
            part = share(source.batch * rows)
            with T.serial(0, source.batch) as n, T.serial(0, planes) as plane:
                whole = part.of(n * rows, rows)

                def zeros(begin: int, end: int) -> None:
                    with within(whole, begin, end) as y:
                        fill(workspace, T.Bind((plane * rows + y) * (width * pixel)), 0, width * pixel, lanes)

                zeros(0, top)
                with within(whole, top, top + kept_rows) as y:
                    row = T.Bind((plane * rows + y) * (width * pixel))
                    from_row = ((n * planes + plane) * source.rows + y - top) * (source.width * pixel)
                    fill(workspace, row, 0, min(left, width) * pixel, lanes)
                    copy(workspace, row + left * pixel, images, T.Bind(from_row), kept * pixel, lanes)
                    if width > left + kept:
                        fill(workspace, row + (left + kept) * pixel, 0, (width - left - kept) * pixel, lanes)
                zeros(top + kept_rows, rows)
        return ib.get()
