"""Float32 matrix product with its epilogue in registers: [M, K] x [K, N] -> [M, N].

With one row it is as fast as the weights can be read: many vectors of outputs are computed side by side.
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
from bnncc.tir.registers import Expr
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, block_count, epilogue_args, float_lanes, float_tile, walk_blocks, walk_row


@dataclass(frozen=True)
class Shape:
    """Input [output.batch, inputs]; output.rows and output.width are 1."""

    output: ep.Geometry
    inputs: int


def arrange_weights(weights: npt.NDArray[np.float32], target: Target) -> npt.NDArray[np.float32]:
    """[K, N] -> [blocks, K, lanes], one behind the other."""
    return products.arrange(weights[None], float_lanes(target))


def build(shape: Shape, epilogue: ep.Epilogue, target: Target) -> tirx.PrimFunc:
    """The kernel: (input, weights, *epilogue params, *outputs, begin, end) -> 0. A unit is a tile of channels."""
    out, lanes = shape.output, float_lanes(target)
    tile = float_tile(target, Work("dense", out.batch, out.channels, shape.inputs))
    reduction = products.Reduction((1, 1, shape.inputs), (0, 0, 1), shape.inputs)
    zero = tirx.const(0, "int32")
    with IRBuilder() as ib, T.prim_func():
        inputs, weights = arg("input", "float32"), arg("weights", "float32")
        params, outputs = epilogue_args(epilogue)
        blocks = block_count(out.channels, lanes, tile.vectors)
        part = share(blocks)
        part.once(lambda: ep.emit_borders(epilogue, out, outputs))

        def emit(block: Expr, vectors: int, channels: int) -> None:
            def rows(first: Expr) -> None:
                at = T.Bind(first * shape.inputs)
                sums = products.accumulate(inputs, at, weights, block, reduction, tile.pixels, vectors, lanes)
                pixels = [ep.Pixel(first + p, zero, zero) for p in range(tile.pixels)]
                products.finish(sums, epilogue, out, pixels, block * lanes, channels, lanes, params, outputs)

            walk_row(out.batch, tile.pixels, rows)

        walk_blocks(out.channels, lanes, tile.vectors, emit, part.of(zero, blocks))
    return ib.get()
