"""Mean over the rows and columns of each channel, with an epilogue in registers: [N, H, W, C] -> [N, 1, 1, C]."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.schedule import Choices, Schedule, up_to
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr, load, ramp, splat, zeros
from bnncc.tir.shares import share
from bnncc.tir.tiles import arg, each_slice, epilogue_args, float_lanes, slice_count

_CHAINS = (
    2  # pixels added side by side, because each addition waits for the one before. Another number rounds otherwise.
)


@dataclass(frozen=True)
class ChannelSchedule(Schedule):
    """vectors: of channels taken together, one cache line after the other."""

    vectors: int = 4

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        return {"vectors": up_to(8)}


@dataclass(frozen=True)
class GlobalPool(Kernel):
    """Input [batch, in_rows, in_width, channels]; output.rows and output.width are 1."""

    kind: ClassVar[str] = "mean"
    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (ChannelSchedule,)

    output: ep.Geometry
    in_rows: int
    in_width: int

    def default(self, target: Target) -> ChannelSchedule:
        return ChannelSchedule()

    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        shape = (self.output.batch, self.in_rows, self.in_width, self.output.channels)
        return (Argument("input", "input", "float32", shape),)

    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """A unit is `vectors` vectors of channels of one image."""
        assert isinstance(schedule, ChannelSchedule)
        out, pixels = self.output, self.in_rows * self.in_width
        together = schedule.vectors * float_lanes(target)
        count = slice_count(out.channels, together)
        with IRBuilder() as ib, T.prim_func():
            inputs = arg("input", "float32")
            params, outputs = epilogue_args(epilogue)
            part = share(out.batch * count)
            part.once(lambda: ep.emit_borders(epilogue, out, outputs))
            with T.serial(0, out.batch) as n:

                def slice_of(channel: Expr, lanes: int, valid: int) -> None:
                    everything = ramp(0, lanes)
                    sums = zeros(min(_CHAINS, pixels), "float32", lanes)

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
