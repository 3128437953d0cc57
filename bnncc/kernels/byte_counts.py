"""Popcounts in byte lanes, for machines that count the bits of bytes (NEON's cnt, a pshufb table on x86).

A lane is one output channel. One byte of the window is broadcast, xor-ed with `vectors` vectors of weights, counted,
and added to a tile of `pixels` x `vectors` byte accumulators. A byte holds at most 31 counts of at most 8, so the tile
is flushed into 16 bits before it can pass 255.

Neighbouring output pixels share columns of the input. The columns of one row of the window are broadcast once and used
under every tap that reaches them: a broadcast takes a slot of the vector pipes on most ARM cores, and for a 3x3 window
there are then (pixels + 2) instead of 3 * pixels of them. A tile of several rows of output pixels also shares rows of
the input, so it counts one word under all taps of the window before the next word.
"""

import math
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.kernels.registers import Buffer, Expr, cast, load, local, ramp, splat
from bnncc.targets.target import Tile

_FLUSH = 31  # additions of at most 8 that a byte lane can hold
_UNROLL = 16  # sums of one word each that are written out one by one at least, to save on the loop around them
_LONG = 16  # words in a row that are one loop of any length: two loops would take more of the registers of 32-bit ARM
_COLUMNS = 4  # of the window, whose broadcasts are kept in registers side by side


@dataclass(frozen=True)
class Window:
    """What one output value counts: `words` bytes at each tap of a `kernel` of rows and columns.

    row, column: bytes in the input from a tap to the one below and to the one on its right. pixel, below: bytes from an
    output pixel's window to that of the next pixel and to that of the pixel below.
    """

    kernel: tuple[int, int]
    words: int
    row: int
    column: int
    pixel: int
    below: int


def accumulate(
    window: Window, tile: Tile, lanes: int, bits: Buffer, at: Expr, weights: Buffer, weights_at: Expr
) -> list[Buffer]:
    """Counts of `tile.rows` rows of `tile.pixels` pixels, the first one's window starting at `bits[at]`, by
    `tile.vectors` vectors of weights from `weights[weights_at]` on: pixel p (numbered row by row), vector v is number
    p * vectors + v."""
    rows, columns = window.kernel
    total = rows * columns * window.words
    # Rows of the window that are counted at a time.
    depth = rows if tile.rows > 1 and rows * min(columns, _COLUMNS) <= _FLUSH else 1
    everything, zero = ramp(0, lanes), tirx.const(0, "int32")
    pixels = [r * window.below + p * window.pixel for r in range(tile.rows) for p in range(tile.pixels)]
    narrow = _zeros(len(pixels) * tile.vectors, "uint8", lanes)

    def plus(sums: Expr, ones: Expr) -> Expr:
        """Their sum, which is less than 256. LLVM regroups long chains of plain additions, which takes registers that
        large tiles do not have; it leaves saturating ones as they are."""
        return sums + ones if depth == 1 else T.call_llvm_pure_intrin(f"uint8x{lanes}", "llvm.uadd.sat", sums, ones)

    def count(row: Expr, first: int, end: int, word: Expr) -> None:
        """One word of each of the taps from column `first` to before `end` of `depth` rows of the window."""
        here = T.Bind(at + row * window.row + word)
        row_at = T.Bind(weights_at + (row * (columns * window.words) + word) * lanes)
        values: dict[int, Expr] = {}
        for i in range(depth):
            steps = {pixel + i * window.row + j * window.column for pixel in pixels for j in range(first, end)}
            values |= {step: T.Bind(splat(bits[here + step], lanes)) for step in sorted(steps - values.keys())}
            for j in range(first, end):
                for v in range(tile.vectors):
                    factor = load(weights, row_at + (v * total + (i * columns + j) * window.words) * lanes, lanes)
                    # Step by step over all pixels: in-order cores run best when dependent instructions lie apart.
                    tap = i * window.row + j * window.column
                    mixed = [T.Bind(values[pixel + tap] ^ factor) for pixel in pixels]
                    counts = [T.Bind(T.popcount(bit)) for bit in mixed]
                    for p, ones in enumerate(counts):
                        into = narrow[p * tile.vectors + v]
                        T.buffer_store(into, plus(into[everything], ones), [everything])

    def count_all(row: Expr, first: int, end: int, word: Expr, words: Expr, unit: int) -> None:
        """`words` words, a multiple of `unit`, from `word` on."""
        unrolled = math.gcd(unit, max(1, _UNROLL // (len(narrow) * depth * (end - first))))
        with T.serial(0, words // unrolled) as i:
            for part in range(unrolled):
                count(row, first, end, word + (i * unrolled + part))

    parts = [(first, min(first + _COLUMNS, columns)) for first in range(0, columns, _COLUMNS)]
    if total <= _FLUSH:
        with T.serial(0, rows // depth) as row:
            for first, end in parts:
                count_all(row, first, end, zero, window.words, window.words)
        return narrow
    # 16 bits hold the popcount of a window of up to 65,535 bits.
    wide_type = "uint16" if 8 * total < 1 << 16 else "uint32"
    wide = _zeros(len(narrow), wide_type, lanes)

    def run(row: Expr, first: int, end: int, word: Expr, words: Expr, unit: int) -> None:
        count_all(row, first, end, word, words, unit)
        for small, large in zip(narrow, wide, strict=True):
            T.buffer_store(large, large[everything] + cast(small[everything], wide_type, lanes), [everything])
            T.buffer_store(small, splat(tirx.const(0, "uint8"), lanes), [everything])

    with T.serial(0, rows // depth) as row:
        for first, end in parts:
            chunks = -(-window.words // (_FLUSH // (depth * (end - first))))
            size = -(-window.words // chunks)
            whole, rest = divmod(window.words, size)
            if rest and size >= _LONG:
                with T.serial(0, whole + 1) as chunk:
                    words = T.Bind(T.min(window.words - chunk * size, tirx.const(size, "int32")))
                    run(row, first, end, chunk * size, words, math.gcd(size, rest))
                continue
            with T.serial(0, whole) as chunk:
                run(row, first, end, chunk * size, size, size)
            if rest:
                run(row, first, end, tirx.const(whole * size, "int32"), rest, rest)
    return wide


def _zeros(count: int, dtype: str, lanes: int) -> list[Buffer]:
    made = [local(dtype, lanes) for _ in range(count)]
    for one in made:
        T.buffer_store(one, splat(tirx.const(0, dtype), lanes), [ramp(0, lanes)])
    return made
