"""An epilogue without a convolution before it: values are loaded from a tensor, worked on and stored."""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes


@dataclass(frozen=True)
class Shape:
    """Input [N, H, W, C], of the output's extents; dtype is float32 or int32. A tensor [N, C] is [N, 1, 1, C]."""

    output: ep.Geometry
    dtype: str = "float32"


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, *epilogue params, *outputs, begin, end) -> 0. A unit is a row."""
    lanes = float_lanes(target)
    out = _flat(shape.output, epilogue, lanes)
    with IRBuilder() as ib, T.prim_func():
        inputs = arg("input", shape.dtype)
        params, outputs = epilogue_args(epilogue)
        part = share(out.batch * out.rows)
        part.once(lambda: ep.emit_borders(epilogue, out, outputs))

        def row(n: Expr, y: Expr) -> None:
            with T.serial(0, out.width) as x:
                at = T.Bind(((n * out.rows + y) * out.width + x) * out.channels)

                def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                    value = load(inputs, at + channel, lanes, valid)
                    ep.emit_pixels(epilogue, out, [ep.Pixel(n, y, x)], channel, [value], lanes, valid, params, outputs)

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
