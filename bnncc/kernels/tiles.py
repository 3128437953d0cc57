"""How kernels walk their output: rows, tiles of pixels by vectors of channels, and slices of those vectors."""

from collections.abc import Callable, Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.kernels import epilogue as ep
from bnncc.kernels.registers import Buffer, Expr
from bnncc.targets.target import Target, Tile

SLICE = 8  # channels in one byte of packed signs: the least that an epilogue handles at a time


def arg(name: str, dtype: str) -> Buffer:
    """A parameter of the kernel: a flat buffer. Its length is never read, so 1 stands for all."""
    return T.arg(name, T.buffer((1,), dtype))


def epilogue_args(epilogue: ep.Epilogue) -> tuple[list[Buffer], list[Buffer]]:
    """The epilogue's parameters and outputs, the last parameters of every kernel."""
    params = [arg(f"param{i}", param.dtype) for i, param in enumerate(epilogue.params)]
    outputs = [arg(f"out{i}", output.dtype) for i, output in enumerate(epilogue.outputs)]
    return params, outputs


def float_lanes(target: Target) -> int:
    """Channels in one float vector of a kernel: the target's, but a byte of signs at least. LLVM makes two registers
    of one such vector where they have 128 bits."""
    return max(SLICE, target.float_lanes)


def float_tile(target: Target, work: Any) -> Tile:
    """The target's tile with `vectors` counted in vectors of `float_lanes`."""
    tile = target.tile(work)
    return Tile(tile.pixels, -(-tile.vectors * target.float_lanes // float_lanes(target)))


def slices(channels: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """Cut `channels` into (first, lanes, how many of them exist): whole vectors, then bytes of signs."""
    whole = channels // lanes * lanes
    for first in range(0, whole, lanes):
        yield first, lanes, lanes
    for first in range(whole, channels, SLICE):
        yield first, SLICE, min(SLICE, channels - first)


def each_slice(channels: int, lanes: int, emit: Callable[[Expr, int, int], None]) -> None:
    """Call `emit(first, lanes, valid)` for all of `slices`, the whole vectors in one loop."""
    if channels >= lanes:
        with T.serial(0, channels // lanes) as i:
            emit(T.Bind(i * lanes), lanes, lanes)
    for first, width, valid in slices(channels % lanes, lanes):
        emit(tirx.const(channels // lanes * lanes + first, "int32"), width, valid)


def walk_row(width: int, pixels: int, emit: Callable[[Expr], None]) -> None:
    """Call `emit` with the first pixel of each tile of a row. The last tile is shifted left to end with the row: it
    computes some pixels twice and writes the same values."""
    with T.serial(0, -(-width // pixels)) as i:
        emit(i * pixels if width % pixels == 0 else T.Bind(T.min(i * pixels, width - pixels)))


def walk_blocks(channels: int, lanes: int, vectors: int, emit: Callable[[Expr, int, int], None]) -> None:
    """Call `emit(block, vectors, channels)`: whole tiles of channels in a loop, then what is left. A block is one
    vector of channels."""
    whole = channels // (vectors * lanes)
    if whole:
        with T.serial(0, whole) as i:
            emit(i * vectors, vectors, vectors * lanes)
    rest = channels - whole * vectors * lanes
    if rest:
        emit(tirx.const(whole * vectors, "int32"), -(-rest // lanes), rest)


def walk_tiles(
    rows: int,
    width: int,
    channels: int,
    lanes: int,
    tile: Tile,
    *,
    rows_first: bool,
    emit: Callable[[Expr, int, int, Expr, Expr], None],
) -> None:
    """Call `emit(block, vectors, channels, y, x)` for all tiles of one group of one image.

    rows_first: walk all channels of a row before the next row, which is best when all weights stay in the first-level
    cache. Otherwise the weights of one block of channels are kept there while the rows are walked.
    """
    if rows_first:
        with T.serial(0, rows) as y:
            walk_blocks(
                channels,
                lanes,
                tile.vectors,
                lambda b, v, c: walk_row(width, tile.pixels, lambda x: emit(b, v, c, y, x)),
            )
        return

    def walk_rows(block: Expr, vectors: int, count: int) -> None:
        with T.serial(0, rows) as y:
            walk_row(width, tile.pixels, lambda x: emit(block, vectors, count, y, x))

    walk_blocks(channels, lanes, tile.vectors, walk_rows)
