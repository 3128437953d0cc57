"""What this machine can do at best: arithmetic in registers, and copying within each level of its memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from benchmarks.timing import FullSpeed, best
from bnncc.bench import kernel
from bnncc.bench.kernel import aligned, bind
from bnncc.codegen import peak
from bnncc.runtime.abi import Function, PeakKind
from bnncc.targets.target import Target
from bnncc.tir.registers import Expr, ramp
from bnncc.tir.tiles import arg

_ITERATIONS = 10_000  # of a peak loop in one call
_PIECE = 200  # the same, for watching the core
_UNROLLED = 8  # vectors copied in one iteration
_MEMORY = 1 << 62
_MEMORY_COPIED = 64 << 20  # bytes copied to measure main memory


@dataclass(frozen=True)
class Level:
    """One level of memory: its bytes, and the copy bandwidth within it, bytes read plus bytes written."""

    name: str
    size: int
    gigabytes_per_second: float


@dataclass(frozen=True)
class Peaks:
    """1e9 multiply-accumulates a second by kind ("binary", "float32", "int8"); levels of memory from small to large.

    `missing` says why a kind is not there."""

    target: str
    gmacs: dict[str, float]
    levels: tuple[Level, ...]
    missing: dict[str, str]

    def level(self, footprint: int) -> Level:
        """The smallest level that holds `footprint` bytes."""
        return next(level for level in self.levels if footprint <= level.size)

    def best_of(self, other: "Peaks") -> "Peaks":
        """The higher of what two measurements of the same target found."""
        faster = (
            max(pair, key=lambda one: one.gigabytes_per_second) for pair in zip(self.levels, other.levels, strict=True)
        )
        gmacs = {kind: max(rate, other.gmacs[kind]) for kind, rate in self.gmacs.items()}
        return replace(self, gmacs=gmacs, levels=tuple(faster))


def measure(target: Target) -> Peaks:
    """The peaks of one target's instructions: the best of several tries each, since a peak is what can be had."""
    loop = _loop(target)
    kinds = [kind for kind in PeakKind if target.int8_dot or kind != PeakKind.INT8]
    gmacs = {kind.label: _arithmetic(loop, kind) for kind in kinds}
    missing = {} if "int8" in gmacs else {"int8": f"{target.name} has no instructions for them"}
    return Peaks(target.name, gmacs, tuple(_levels(target)), missing)


def full_speed(target: Target) -> FullSpeed:
    """Watches this core by what `target` counts bits with."""
    loop = _loop(target)
    return FullSpeed(lambda pieces: kernel.peak(loop, PeakKind.BINARY, pieces * _PIECE))


def _loop(target: Target) -> Function:
    return kernel.load({"peak": peak.build(target)}, target)["peak"]


def _arithmetic(loop: Function, kind: PeakKind) -> float:
    macs = kernel.peak(loop, kind, _ITERATIONS)
    return macs / best(lambda times: kernel.peak(loop, kind, times * _ITERATIONS)) / 1e9


def _levels(target: Target) -> Iterator[Level]:
    """The caches that Linux reports for this core, and main memory."""
    for name, size in _caches():
        yield Level(name, size, _copy_bandwidth(target, size // 4))
    yield Level("memory", _MEMORY, _copy_bandwidth(target, _MEMORY_COPIED))


def _caches() -> Iterator[tuple[str, int]]:
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (folder / "type").read_text().strip() != "Instruction":
            size = (folder / "size").read_text().strip()
            yield f"L{(folder / 'level').read_text().strip()}", int(size.rstrip("KM")) << (10 if "K" in size else 20)


def _copy_bandwidth(target: Target, size: int) -> float:
    """1e9 bytes a second, read and written, for a buffer of `size` bytes copied to another."""
    source, to = aligned(size, "uint8"), aligned(size, "uint8")
    source[...] = 1
    return 2 * size / best(bind(_copy(target, size), target, [source, to])) / 1e9


def _copy(target: Target, size: int) -> tirx.PrimFunc:
    lanes = target.vector_bits // 32
    with IRBuilder() as ib, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        source, to = arg("source", "float32"), arg("to", "float32")
        with T.serial(0, size // (4 * lanes * _UNROLLED)) as i:
            for part in range(_UNROLLED):
                at: Expr = (i * _UNROLLED + part) * lanes
                T.buffer_store(to, source[ramp(at, lanes)], [ramp(at, lanes)])
    return ib.get()
