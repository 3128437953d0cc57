"""A stage between a convolution's accumulators and its epilogue that sees all channels of a pixel.

Accumulators of a few rows of pixels, all channels, are kept as 16-bit integers in a buffer of the call's own, which
stays in the first or second cache: [groups of 8 channels][pixels][8], so that storing and loading 8 channels of a pixel
moves one piece of 16 bytes. Where channels interact, lanes are pixels: in place, each block of 8 channels by one vector
of pixels becomes 8 vectors of one channel each, and back afterwards. That is a transposition of 8 x 8 inside every 128
bits, 24 shuffles, after which the pixels of a vector stand in another order, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.tir.registers import Buffer, Expr, load, local, ramp, splat
from bnncc.tir.tiles import SLICE

_VECTORS = 8  # of pixels of one channel that are held in registers
_LINE, _ALIGNED = 64, 16  # bytes: of a cache line, and what a local buffer is aligned to
_HEADER = 2  # numbers of blocks and of updates, in front of a program


@dataclass(frozen=True)
class Capacity:
    """Room in a program: blocks of 8 channels that interact, updates, steps; and rows for copies."""

    blocks: int
    updates: int
    steps: int
    copies: int

    @property
    def size(self) -> int:
        """Numbers in a program."""
        return _HEADER + self.blocks + 3 * (self.updates + self.steps)


@dataclass(frozen=True)
class Stage:
    """The buffer. lanes: pixels in a vector of 16-bit integers; vectors: of them in the buffer; rows: channels, and
    copies of some."""

    lanes: int
    vectors: int
    rows: int

    @staticmethod
    def of(pixels: int, lanes: int, rows: int) -> Stage:
        """The smallest for so many pixels."""
        vectors = -(-pixels // lanes)
        parts = -(-vectors // _VECTORS)
        return Stage(lanes, parts * -(-vectors // parts), rows)

    @property
    def pixels(self) -> int:
        """Of all vectors."""
        return self.lanes * self.vectors

    @property
    def nbytes(self) -> int:
        """Of the buffer."""
        return 2 * -(-self.rows // SLICE) * SLICE * self.pixels

    def allocate(self) -> tuple[Buffer, Expr]:
        """The buffer, on the stack of the call, and where in it vectors are whole cache lines, or parts of one: LLVM
        aligns it to 16 bytes only."""
        room = _LINE // 2 if 2 * self.lanes > _ALIGNED else 0
        buffer = T.alloc_buffer((self.nbytes // 2 + room,), "int16", scope="local")
        if not room:
            return buffer, tirx.const(0, "int32")
        below = tirx.const(0, "int64") - T.reinterpret("int64", T.address_of(buffer[0]))
        missing = T.bitwise_and(below, tirx.const(_LINE - 1, "int64"))
        return buffer, T.Bind(T.shift_right(T.cast(missing, "int32"), tirx.const(1, "int32")))

    def at(self, channel: Expr, pixel: Expr) -> Expr:
        """Where the 8 channels from `channel` on of a pixel lie, outside of `interact`."""
        return T.shift_right(channel, tirx.const(3, "int32")) * (SLICE * self.pixels) + pixel * SLICE

    def store(self, buffer: Buffer, base: Expr, channel: Expr, pixel: Expr, values: Expr, lanes: int) -> None:
        """Put `lanes` channels of a pixel, from `channel` on, where `at` finds them."""
        values = T.Bind(values)
        for first in range(0, lanes, SLICE):
            part = [tirx.const(first + i, "int32") for i in range(SLICE)]
            piece = values if lanes == SLICE else tirx.Shuffle([values], part)
            T.buffer_store(buffer, piece, [ramp(base + self.at(channel + first, pixel), SLICE)])

    def row(self, number: int) -> int:
        """Where the first vector of a row lies, within `interact`."""
        return number // SLICE * SLICE * self.pixels + number % SLICE * self.lanes

    def program(
        self,
        blocks: Sequence[int],
        updates: Sequence[tuple[int, int, Sequence[tuple[int, int, int]]]],
        capacity: Capacity,
    ) -> npt.NDArray[np.int32]:
        """What `interact` reads. updates: (target row, source row, steps of (row, limit, delta))."""
        made = np.zeros(capacity.size, np.int32)
        made[:_HEADER] = len(blocks), len(updates)
        made[_HEADER : _HEADER + len(blocks)] = [self.row(block * SLICE) for block in blocks]
        at, end = _HEADER + capacity.blocks, 0
        words = made[at + 3 * capacity.updates :]
        for number, (target, source, steps) in enumerate(updates):
            for teacher, limit, delta in steps:
                words[3 * end : 3 * end + 3] = self.row(teacher), _twice(limit), _twice(delta)
                end += 1
            made[at + 3 * number : at + 3 * number + 3] = self.row(target), self.row(source), end
        return made

    def interact(self, buffer: Buffer, base: Expr, program: Buffer, capacity: Capacity) -> None:
        """Run a program on the buffer."""
        self._transpose(buffer, base, program)
        parts = -(-self.vectors // _VECTORS)
        held, updates = self.vectors // parts, _HEADER + capacity.blocks
        steps, size = updates + 3 * capacity.updates, SLICE * self.lanes
        every, done = ramp(0, self.lanes), T.alloc_buffer((1,), "int32", scope="local")
        with T.serial(0, parts) as part:
            T.buffer_store(done, tirx.const(0, "int32"), [0])
            skipped = T.Bind(base + part * (held * size))
            with T.serial(0, program[1]) as number:
                target, source = (T.Bind(program[updates + 3 * number + i] + skipped) for i in (0, 1))
                end = T.Bind(program[updates + 3 * number + 2])
                sums = [local("int16", self.lanes) for _ in range(held)]
                for v, total in enumerate(sums):
                    T.buffer_store(total, buffer[ramp(source + v * size, self.lanes)], [every])
                with T.serial(done[0], end) as step:
                    row = T.Bind(program[steps + 3 * step] + skipped)
                    limit, delta = (self._everywhere(program[steps + 3 * step + i]) for i in (1, 2))
                    for v, total in enumerate(sums):
                        above = buffer[ramp(row + v * size, self.lanes)] > limit
                        T.buffer_store(total, T.Select(above, total[every] + delta, total[every]), [every])
                for v, total in enumerate(sums):
                    T.buffer_store(buffer, total[every], [ramp(target + v * size, self.lanes)])
                T.buffer_store(done, end, [0])
        self._transpose(buffer, base, program)

    def _everywhere(self, twice: Expr) -> Expr:
        """A number that stands twice in 32 bits, in every lane: one load where the machine broadcasts 32 bits."""
        return T.Bind(T.reinterpret(f"int16x{self.lanes}", splat(twice, self.lanes // 2)))

    def _transpose(self, buffer: Buffer, base: Expr, program: Buffer) -> None:
        """Blocks of 8 channels: from pixels of 8 channels to channels of many pixels, or back."""
        with T.serial(0, program[0]) as number, T.serial(0, self.vectors) as v:
            at = T.Bind(base + program[_HEADER + number] + v * (SLICE * self.lanes))
            rows = [load(buffer, at + i * self.lanes, self.lanes) for i in range(SLICE)]
            for i, row in enumerate(_transposed(rows, self.lanes)):
                T.buffer_store(buffer, row, [ramp(at + i * self.lanes, self.lanes)])


def _twice(value: int) -> int:
    """A 16-bit integer in both halves of 32 bits."""
    return int(np.array([value, value], np.int16).view(np.int32)[0])


def _transposed(rows: list[Expr], lanes: int) -> list[Expr]:
    """8 x 8 inside every 8 lanes, by interleaving the halves of two vectors in units of 1, 2 and 4 lanes."""
    for unit in (1, 2, 4):
        pairs = [(i, i + unit) for i in range(SLICE) if not i & unit]
        mixed = {}
        for i, j in pairs:
            for half, place in ((0, i), (1, j)):
                mixed[place] = T.Bind(tirx.Shuffle([rows[i], rows[j]], list(_interleaved(half, unit, lanes))))
        rows = [mixed[i] for i in range(SLICE)]
    return [rows[int(f"{i:03b}"[::-1], 2)] for i in range(SLICE)]


def _interleaved(half: int, unit: int, lanes: int) -> Iterator[Expr]:
    """Lanes of two vectors behind one another: units of the first and second in turn, of one half of every 8."""
    for eight in range(0, lanes, SLICE):
        for place in range(SLICE):
            chunk, within = divmod(place, unit)
            lane = eight + half * SLICE // 2 + chunk // 2 * unit + within
            yield tirx.const(lane + (chunk % 2) * lanes, "int32")
