"""How kernels walk their output: rows, tiles of pixels by vectors of channels, and slices of those vectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T
from tvm.tirx.script.builder.frame import ForFrame

from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Buffer, Expr
from bnncc.tir.shares import Range, Share, balance, within

Prepare = Callable[[Expr, Expr, int], None]  # (group, block, vectors), before the tiles of a block of channels
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


def slices(channels: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """Cut `channels` into (first, lanes, how many of them exist): whole vectors, then bytes of signs."""
    whole = channels // lanes * lanes
    for first in range(0, whole, lanes):
        yield first, lanes, lanes
    for first in range(whole, channels, SLICE):
        yield first, SLICE, min(SLICE, channels - first)


def slice_count(channels: int, lanes: int) -> int:
    """Loop rounds of `each_slice`: whole vectors, and all that is left together."""
    return -(-channels // lanes)


def each_slice(channels: int, lanes: int, emit: Callable[[Expr, int, int], None], only: Range | None = None) -> None:
    """Call `emit(first, lanes, valid)` for all of `slices`, the whole vectors in one loop. `only`: the rounds to do, of
    the `slice_count`; all by default."""
    whole, rest = channels // lanes, channels % lanes
    if whole:
        with _serial(whole, only) as i:
            emit(T.Bind(i * lanes), lanes, lanes)

    def remaining() -> None:
        for first, width, valid in slices(rest, lanes):
            emit(tirx.const(whole * lanes + first, "int32"), width, valid)

    if rest:
        _last(whole, only, remaining)


def walk_row(width: int, pixels: int, emit: Callable[[Expr], None]) -> None:
    """Call `emit` with the first pixel of each tile of a row. The last tile is shifted left to end with the row: it
    computes some pixels twice and writes the same values."""
    with T.serial(0, -(-width // pixels)) as i:
        emit(i * pixels if width % pixels == 0 else T.Bind(T.min(i * pixels, width - pixels)))


def block_count(channels: int, lanes: int, vectors: int) -> int:
    """Tiles of channels that `walk_blocks` walks."""
    return -(-channels // (vectors * lanes))


def walk_blocks(
    channels: int, lanes: int, vectors: int, emit: Callable[[Expr, int, int], None], only: Range | None = None
) -> None:
    """Call `emit(block, vectors, channels)`: whole tiles of channels in a loop, then what is left. A block is one
    vector of channels. `only`: the tiles to walk, of the `block_count`; all by default."""
    whole = channels // (vectors * lanes)
    if whole:
        with _serial(whole, only) as i:
            emit(i * vectors, vectors, vectors * lanes)
    rest = channels - whole * vectors * lanes
    if rest:
        _last(whole, only, lambda: emit(tirx.const(whole * vectors, "int32"), -(-rest // lanes), rest))


@dataclass(frozen=True)
class Grid:
    """The tiles of a convolution's output, and how its work is divided.

    lanes: channels of one vector. pixels, vectors, rows: extents of a tile; `rows` divides the height of the output.
    rows_first: walk all channels of a row before the next row, which is best when all weights stay in the first-level
    cache; otherwise the weights of one block of channels are kept there while the rows are walked.
    """

    output: ep.Geometry
    groups: int
    lanes: int
    pixels: int
    vectors: int
    rows: int
    rows_first: bool

    @property
    def blocks(self) -> int:
        """Tiles of channels of one group."""
        return block_count(self.output.channels // self.groups, self.lanes, self.vectors)

    @property
    def bands(self) -> int:
        """Rows of tiles in one image."""
        return self.output.rows // self.rows

    @property
    def by_rows(self) -> bool:
        """Whether a unit is a band of one image, or a tile of channels of one group of one image."""
        bands, blocks = self.output.batch * self.bands, self.output.batch * self.groups * self.blocks
        return self.rows_first or balance(bands) >= balance(blocks)

    @property
    def units(self) -> int:
        """Units of the whole output, those of one image after those of the one before."""
        return self.output.batch * (self.bands if self.by_rows else self.groups * self.blocks)

    def walk(
        self,
        share: Share,
        emit: Callable[[Expr, Expr, Expr, int, int, Expr, Expr], None],
        prepare: Prepare | None = None,
    ) -> None:
        """Call `emit(n, group, block, vectors, channels, y, x)` for all tiles in the share, and `prepare` before
        those of one block that come one after the other."""
        with T.serial(0, self.output.batch) as n, T.serial(0, self.groups) as group:
            bands: Range = (tirx.const(0, "int32"), tirx.const(self.bands, "int32"))
            only = None
            if self.by_rows:
                bands = share.of(n * self.bands, self.bands)
            else:
                only = share.of((n * self.groups + group) * self.blocks, self.blocks)

            self.walk_bands(n, group, bands, emit, only, prepare)

    def walk_bands(
        self,
        n: Expr,
        group: Expr,
        bands: Range,
        emit: Callable[[Expr, Expr, Expr, int, int, Expr, Expr], None],
        only: Range | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """`walk` within some bands of one group of one image. `only`: the tiles of channels to walk."""
        width, channels = self.output.width, self.output.channels // self.groups

        def walk_rows(block: Expr, vectors: int, count: int) -> None:
            if prepare:
                prepare(group, block, vectors)
            with T.serial(*bands) as band:
                y = T.Bind(band * self.rows)
                walk_row(width, self.pixels, lambda x: emit(n, group, block, vectors, count, y, x))

        if not self.rows_first:
            walk_blocks(channels, self.lanes, self.vectors, walk_rows, only)
            return
        with T.serial(*bands) as band:
            y = T.Bind(band * self.rows)

            def walk_pixels(block: Expr, vectors: int, count: int) -> None:
                if prepare:
                    prepare(group, block, vectors)
                walk_row(width, self.pixels, lambda x: emit(n, group, block, vectors, count, y, x))

            walk_blocks(channels, self.lanes, self.vectors, walk_pixels)


def _serial(count: int, only: Range | None) -> ForFrame:
    """A loop over `count` things, or over those of them that are in `only`."""
    return T.serial(0, count) if only is None else within(only, 0, count)


def _last(number: int, only: Range | None, emit: Callable[[], None]) -> None:
    """`emit` thing `number`, the last one, if it is in `only`."""
    if only is None:
        emit()
        return
    with T.If(tirx.all(only[0] <= number, number < only[1])), T.Then():
        emit()
