"""Copying and filling runs of memory, a vector at a time."""

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.tir.registers import Buffer, Expr, ramp, splat


def copy(to: Buffer, to_at: Expr, source: Buffer, source_at: Expr, count: int, lanes: int) -> None:
    """to[to_at + i] = source[source_at + i] for the `count` values i; both hold the same type."""

    def move(first: Expr, width: int) -> None:
        T.buffer_store(to, source[ramp(source_at + first, width)], [ramp(to_at + first, width)])

    runs(count, lanes, move)


def fill(to: Buffer, at: Expr, value: int, count: int, lanes: int) -> None:
    """to[at + i] = value for the `count` values i."""
    constant = tirx.const(value, to.dtype)
    runs(count, lanes, lambda first, width: T.buffer_store(to, splat(constant, width), [ramp(at + first, width)]))


def runs(count: int, lanes: int, emit: Callable[[Expr, int], None]) -> None:
    """Cut `count` values into whole vectors, in a loop, and then ever smaller ones: `emit(first, lanes)`."""
    done = count // lanes * lanes
    if done:
        with T.serial(0, count // lanes) as i:
            emit(i * lanes, lanes)
    while done < count:
        lanes //= 2
        if count - done >= lanes:
            emit(tirx.const(done, "int32"), lanes)
            done += lanes
