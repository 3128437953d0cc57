"""An epilogue without a convolution before it: values are loaded from a tensor, worked on and stored."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel, images
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes


@dataclass(frozen=True)
class Elementwise(Kernel):
    """Input [N, H, W, C], of the output's extents. A tensor [N, C] is [N, 1, 1, C]."""

    kind: ClassVar[str] = "elementwise"

    dtype: Literal["float32", "int32"] = "float32"

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return (Argument("input", "input", self.dtype, images(self.output)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a row."""
        lanes = float_lanes(target)
        out = _flat(self.output, epilogue, lanes)
        with IRBuilder() as ib, T.prim_func():
            inputs = arg("input", self.dtype)
            params, outputs = epilogue_args(epilogue)
            part = share(out.batch * out.rows)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def row(n: Expr, y: Expr) -> None:
                with T.serial(0, out.width) as x:
                    at = T.Bind(((n * out.rows + y) * out.width + x) * out.channels)

                    def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                        value = load(inputs, at + channel, lanes, valid)
                        where = [ep.Pixel(n, y, x)]
                        ep.emit_pixels(epilogue, out, where, channel, [value], lanes, valid, params, outputs)

                    each_slice(out.channels, lanes, slice_of)

            part.each_row(out.batch, out.rows, row)
        return ib.get()


def _flat(geometry: ep.Geometry, epilogue: ep.Epilogue, lanes: int) -> ep.Geometry:
    """One long pixel, or one a row, where nothing depends on the channel, so that few channels do not make short
    vectors."""
    if any(param.kind == "channel" for param in epilogue.params) or any(output.bits for output in epilogue.outputs):
        return geometry
    rows, row = geometry.batch * geometry.rows, geometry.width * geometry.channels
    return ep.Geometry(1, rows, 1, row) if row % lanes == 0 else ep.Geometry(1, 1, 1, rows * row)
