"""Mean over the rows and columns of each channel, with an epilogue in registers: [N, H, W, C] -> [N, 1, 1, C]."""

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, local, ramp, splat
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes, slice_count

_VECTORS = 4  # of channels taken together: one cache line after the other
_CHAINS = 2  # pixels added side by side, because each addition waits for the one before


@dataclass(frozen=True)
class Shape:
    """Input [batch, in_rows, in_width, channels]; output.rows and output.width are 1."""

    output: ep.Geometry
    in_rows: int
    in_width: int


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, *epilogue params, *outputs, begin, end) -> 0.

    A unit is `_VECTORS` vectors of channels of one image.
    """
    out, pixels = shape.output, shape.in_rows * shape.in_width
    together = _VECTORS * float_lanes(target)
    count = slice_count(out.channels, together)
    with IRBuilder() as ib, T.prim_func():
        inputs = arg("input", "float32")
        params, outputs = epilogue_args(epilogue)
        part = share(out.batch * count)
        part.once(lambda: ep.emit_borders(epilogue, out, outputs))
        with T.serial(0, out.batch) as n:

            def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                everything = ramp(0, lanes)
                sums = [local("float32", lanes) for _ in range(min(_CHAINS, pixels))]
                for total in sums:
                    T.buffer_store(total, splat(tirx.const(0.0, "float32"), lanes), [everything])

                def add(first: Expr, count: int) -> None:
                    for p in range(count):
                        at = (n * pixels + first + p) * out.channels + channel
                        value = load(inputs, at, lanes, valid)
                        T.buffer_store(sums[p], sums[p][everything] + value, [everything])

                with T.serial(0, pixels // len(sums)) as i:
                    add(i * len(sums), len(sums))
                add(pixels // len(sums) * len(sums), pixels % len(sums))
                total = sums[0][everything]
                for other in sums[1:]:
                    total = total + other[everything]
                mean = T.Bind(total / splat(tirx.const(float(pixels), "float32"), lanes))
                zero = tirx.const(0, "int32")
                where = [ep.Pixel(n, zero, zero)]
                ep.emit_pixels(epilogue, out, where, channel, [mean], lanes, valid, params, outputs)

            each_slice(out.channels, together, slice_of, part.of(n * count, count))
    return ib.get()
