"""Popcounts in byte lanes, for machines that count the bits of bytes (NEON's cnt, a pshufb table on x86).

A tile of `pixels` x `vectors` byte accumulators takes words of the window and `vectors` vectors of weights, which are
xor-ed, counted and added. A byte holds at most 31 counts of at most 8, so the tile is flushed into 16 bits before it
can pass 255. What a lane is, the window's words say:

- an output channel: a word is one byte of the window, broadcast to all lanes, and sums need nothing more at the end;
- a byte of the window: a word is a whole vector of it, a vector of weights belongs to one channel, and the lanes of
  each accumulator are added up at the end (see pairwise.py). Nothing is broadcast, which takes a slot of the vector
  pipes on most ARM cores.

Neighbouring output pixels share columns of the input. The columns of one row of the window are read once and used
under every tap that reaches them: for a 3x3 window there are then (pixels + 2) words instead of 3 * pixels. A tile of
several rows of output pixels also shares rows of the input, so it counts one word under all taps of the window before
the next word.
"""

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir.pairwise import add_bytes
from bnncc.tir.registers import Buffer, Expr, cast, load, local, ramp, splat, zeros

# What `Loops` may be, the default first.
UNROLL = (16, 8)
COLUMNS = (4, 2)
TOGETHER = (2, 1)

_FLUSH = 31  # additions of at most 8 that a byte lane can hold
_LONG = 16  # words in a row that are one loop of any length: two loops would take more of the registers of 32-bit ARM


@dataclass(frozen=True)
class Loops:
    """How the counting loop is written out.

    unroll: sums of one word each that are written out one by one at least, to save on the loop around them. columns:
    of the window, whose words are kept in registers side by side. together: vectors of weights that are counted step
    by step together.
    """

    unroll: int
    columns: int
    together: int


@dataclass(frozen=True)
class Tile:
    """Accumulators held in registers: `pixels` x `vectors` in each of `rows` rows of the output."""

    pixels: int
    vectors: int
    rows: int
    loops: Loops


@dataclass(frozen=True)
class Window:
    """What one output value counts: `words` words at each tap of a `kernel` of rows and columns.

    word_bytes: 1 where lanes are channels; those of a vector where they are bytes of the window.
    row, column: bytes in the input from a tap to the one below and to the one on its right. pixel, below: bytes from an
    output pixel's window to that of the next pixel and to that of the pixel below. same_weights: whether all taps have
    the same ones.
    """

    kernel: tuple[int, int]
    words: int
    word_bytes: int
    row: int
    column: int
    pixel: int
    below: int
    same_weights: bool = False


def accumulate(
    window: Window, tile: Tile, target: Target, bits: Buffer, at: Expr, weights: Buffer, weights_at: Expr
) -> list[Buffer]:
    """Counts of `tile.rows` rows of `tile.pixels` pixels, the first one's window starting at `bits[at]`, by
    `tile.vectors` vectors of weights from `weights[weights_at]` on: pixel p (numbered row by row), vector v is number
    p * vectors + v. Weights lie vector after vector where lanes are channels, otherwise word after word, each of all
    vectors. Counts are uint8, uint16 or uint32 lanes; where lanes are bytes of the window, uint16 sums of two each."""
    (rows, columns), loops = window.kernel, tile.loops
    lanes, total = target.popcount_lanes, rows * columns * window.words
    in_bytes = window.word_bytes > 1
    # Words from the weights of one tap to the next, and of a vector.
    tap_words, stored = (0, window.words) if window.same_weights else (window.words, total)
    # Bytes from the weights of one word to the next, and of one vector to the next.
    next_word, next_vector = (tile.vectors * lanes, lanes) if in_bytes else (lanes, stored * lanes)
    # Rows of the window that are counted at a time.
    depth = rows if tile.rows > 1 and rows * min(columns, loops.columns) <= _FLUSH else 1
    everything, zero = ramp(0, lanes), tirx.const(0, "int32")
    pixels = [r * window.below + p * window.pixel for r in range(tile.rows) for p in range(tile.pixels)]
    narrow = zeros(len(pixels) * tile.vectors, "uint8", lanes)

    def plus(sums: Expr, ones: Expr) -> Expr:
        """Their sum, which is less than 256. LLVM regroups long chains of plain additions, which takes registers that
        large tiles do not have; it leaves saturating ones as they are."""
        if depth == 1 and not in_bytes:
            return sums + ones
        return T.call_llvm_pure_intrin(f"uint8x{lanes}", "llvm.uadd.sat", sums, ones)

    def count(row: Expr, first: int, end: int, word: Expr) -> None:
        """One word of each of the taps from column `first` to before `end` of `depth` rows of the window."""
        here = T.Bind(at + row * window.row + word * window.word_bytes)
        weights_here = T.Bind(weights_at + (row * (columns * tap_words) + word) * next_word)
        values: dict[int, Expr] = {}
        for i, j in np.ndindex(depth, end - first):
            tap = i * window.row + (first + j) * window.column
            if in_bytes:  # column by column: what the next ones need would only wait in registers
                steps = {pixel + tap for pixel in pixels}
            else:
                steps = {pixel + i * window.row + k * window.column for pixel in pixels for k in range(first, end)}
            values |= _read(window, target, bits, here, sorted(steps - values.keys()))
            for v in range(0, tile.vectors, loops.together):
                vectors = range(v, min(v + loops.together, tile.vectors))
                words = (i * columns + first + j) * tap_words
                places = [u * next_vector + words * next_word for u in vectors]
                factors = [load(weights, weights_here + place, lanes) for place in places]
                # Step by step over all of them: in-order cores run best when dependent instructions lie apart.
                mixed = [T.Bind(values[pixel + tap] ^ factor) for factor in factors for pixel in pixels]
                counts = [T.Bind(T.popcount(one)) for one in mixed]
                for (u, p), ones in zip(itertools.product(vectors, range(len(pixels))), counts, strict=True):
                    into = narrow[p * tile.vectors + u]
                    T.buffer_store(into, plus(into[everything], ones), [everything])

    def count_all(row: Expr, first: int, end: int, word: Expr, words: Expr, unit: int) -> None:
        """`words` words, a multiple of `unit`, from `word` on."""
        unrolled = math.gcd(unit, max(1, loops.unroll // (len(narrow) * depth * (end - first))))
        with _loop(words // unrolled) as i:
            for part in range(unrolled):
                count(row, first, end, word + (i * unrolled + part))

    parts = [(first, min(first + loops.columns, columns)) for first in range(0, columns, loops.columns)]
    if total <= _FLUSH:
        with _loop(rows // depth) as row:
            for first, end in parts:
                count_all(row, first, end, zero, window.words, window.words)
        return [_widened(one, target) for one in narrow] if in_bytes else narrow
    # 16 bits hold the popcount of a window of up to 65,535 bits.
    wide_type = "uint16" if 8 * total * window.word_bytes < 1 << 16 else "uint32"
    wide_lanes = lanes // 2 if in_bytes else lanes
    wide = zeros(len(narrow), wide_type, wide_lanes)

    def run(row: Expr, first: int, end: int, word: Expr, words: Expr, unit: int) -> None:
        count_all(row, first, end, word, words, unit)
        for small, large in zip(narrow, wide, strict=True):
            sums, ones = ramp(0, wide_lanes), small[everything]
            more = add_bytes(ones, lanes, target) if in_bytes else cast(ones, wide_type, lanes)
            T.buffer_store(large, large[sums] + more, [sums])
            T.buffer_store(small, splat(tirx.const(0, "uint8"), lanes), [everything])

    with _loop(rows // depth) as row:
        for first, end in parts:
            chunks = -(-window.words // (_FLUSH // (depth * (end - first))))
            size = -(-window.words // chunks)
            whole, rest = divmod(window.words, size)
            if rest and size >= _LONG:
                with T.serial(0, whole + 1) as chunk:
                    words = T.Bind(T.min(window.words - chunk * size, tirx.const(size, "int32")))
                    run(row, first, end, chunk * size, words, math.gcd(size, rest))
                continue
            with _loop(whole) as chunk:
                run(row, first, end, chunk * size, size, size)
            if rest:
                run(row, first, end, tirx.const(whole * size, "int32"), rest, rest)
    return wide


def _read(window: Window, target: Target, bits: Buffer, here: Expr, steps: list[int]) -> dict[int, Expr]:
    """The words at each of `steps`, which increase, from `here` on: vectors, or bytes in all lanes."""
    lanes = target.popcount_lanes
    if window.word_bytes > 1:
        return {step: load(bits, here + step, lanes) for step in steps}
    if not target.broadcasts_lanes:
        return {step: T.Bind(splat(bits[here + step], lanes)) for step in steps}
    values: dict[int, Expr] = {}
    while steps:
        near = [step for step in steps if step < steps[0] + lanes]
        if len(near) == 1:
            values[near[0]] = T.Bind(splat(bits[here + near[0]], lanes))
        else:  # reads up to `lanes` - 1 bytes more than it uses
            vector = load(bits, here + near[0], lanes)
            values |= {step: _lane(vector, step - near[0], lanes) for step in near}
        steps = steps[len(near) :]
    return values


def _lane(vector: Expr, lane: int, lanes: int) -> Expr:
    """One lane in all lanes."""
    return T.Bind(tirx.Shuffle([vector], [tirx.const(lane, "int32")] * lanes))


def _widened(narrow: Buffer, target: Target) -> Buffer:
    lanes = target.popcount_lanes
    wide = local("uint16", lanes // 2)
    T.buffer_store(wide, add_bytes(narrow[ramp(0, lanes)], lanes, target), [ramp(0, lanes // 2)])
    return wide


def _loop(count: Expr) -> AbstractContextManager[Expr]:
    """A loop over `count` things; none for one thing, because LLVM moves instructions out of the block that such a loop
    leaves, and then all sums wait at its end."""
    return nullcontext(tirx.const(0, "int32")) if isinstance(count, int) and count == 1 else T.serial(0, count)
