"""A tensor copied as it is, for an output of the network that nothing here computes."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep


@dataclass(frozen=True)
class Copy(Kernel):
    """`output.channels` values of `dtype`, the other extents being 1."""

    kind: ClassVar[str] = "copy"

    dtype: str = "float32"

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        return (Argument("source", "input", self.dtype, (self.output.channels,)),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """Never divided: it has no units."""
        count = self.output.channels
        with IRBuilder() as ib, T.prim_func():
            source = T.arg("source", T.buffer((count,), self.dtype))
            to = T.arg("to", T.buffer((count,), self.dtype))
            with T.serial(0, count) as i:
                T.buffer_store(to, source[i], [i])
        return ib.get()
