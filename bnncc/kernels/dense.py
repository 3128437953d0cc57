"""Float32 matrix product with its epilogue in registers: [M, K] x [K, N] -> [M, N].

With one row it is as fast as the weights can be read: many vectors of outputs are computed side by side. All rows of a
block of channels come before the next block, so weights are read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Arithmetic, Array
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.tile_schedule import TiledKernel, TileSchedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir import products
from bnncc.tir.registers import Expr
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, block_count, epilogue_args, float_lanes, walk_blocks, walk_row


@dataclass(frozen=True)
class Dense(TiledKernel):
    """Input [output.batch, inputs]; output.rows and output.width are 1. Weights are float32 [inputs, channels]."""

    kind: ClassVar[str] = "dense"
    arithmetic: ClassVar[Arithmetic] = "float32"

    output: ep.Geometry
    inputs: int

    @property
    def row(self) -> int:
        return self.output.batch

    @property
    def macs(self) -> int:
        return self.output.batch * self.inputs * self.output.channels

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        lanes = float_lanes(target)
        blocks = -(-self.output.channels // lanes)
        return (
            Argument("input", "input", "float32", (self.output.batch, self.inputs)),
            Argument("weights", "constant", "float32", (blocks * self.inputs * lanes,)),
        )

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """[K, N] -> [blocks, K, lanes], one behind the other."""
        (weights,) = constants
        return (products.arrange(weights[None].astype(np.float32), float_lanes(target)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is a tile of channels."""
        assert isinstance(schedule, TileSchedule)
        out, lanes, together = self.output, float_lanes(target), schedule.pixels
        reduction = products.Reduction((1, 1, self.inputs), (0, 0, 1), self.inputs)
        zero = tirx.const(0, "int32")
        with IRBuilder() as ib, T.prim_func():
            inputs, weights = (arg(a.name, a.dtype) for a in self.operands(target, schedule))
            params, outputs = epilogue_args(epilogue)
            blocks = block_count(out.channels, lanes, schedule.vectors)
            part = share(blocks)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))

            def emit(block: Expr, vectors: int, channels: int) -> None:
                def rows(first: Expr) -> None:
                    at = T.Bind(first * self.inputs)
                    sums = products.accumulate(inputs, at, weights, block, reduction, together, vectors, lanes)
                    pixels = [ep.Pixel(first + p, zero, zero) for p in range(together)]
                    products.finish(sums, epilogue, out, pixels, block * lanes, channels, lanes, params, outputs)

                walk_row(out.batch, together, rows)

            walk_blocks(out.channels, lanes, schedule.vectors, emit, part.of(zero, blocks))
        return ib.get()
