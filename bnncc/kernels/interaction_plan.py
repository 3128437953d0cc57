"""Channel interactions as a program for the pixel stage of a convolution (tir/pixel_stage.py).

A round is a pair of tables, `up` and `down`, as in ops/channel_interaction.py; all of its steps read what the round
before left. Every step becomes one of one kind, "add delta where teacher > limit":

    delta * (t >= T)  =  delta * (t > T - 1)
    delta * (t <= T)  =  delta - delta * (t > T)

What does not depend on a teacher (the first delta here, and steps that always or never happen, given the values that
an accumulator can take) is added to the convolution's offsets beforehand, and the limits are shifted accordingly.

A student is updated in place, so it comes after all that read it as their teacher. Where teachers and students go in
circles, a copy of one is kept in a row of its own behind the channels. Otherwise students with as many steps as the one
before come first, so that the end of the loop over steps is foreseen.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Rounds = Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]
Integers = npt.NDArray[np.int64]

_LEAST, _MOST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


@dataclass(frozen=True)
class Step:
    """Add `delta` where row `teacher` is above `limit`."""

    teacher: int
    limit: int
    delta: int


@dataclass(frozen=True)
class Update:
    """Row `target` becomes row `source` with these steps. Rows are channels, and copies of them behind."""

    target: int
    source: int
    steps: tuple[Step, ...] = ()


@dataclass
class Plan:
    """constants: to add to each channel before, int64 [C]. updates: in order. copies: rows behind the channels."""

    constants: Integers
    updates: list[Update] = field(default_factory=list)
    copies: int = 0

    @property
    def steps(self) -> int:
        """Of all updates."""
        return sum(len(update.steps) for update in self.updates)

    def rows(self) -> set[int]:
        """Channels that are read or updated."""
        used = {row for update in self.updates for row in (update.target, update.source)}
        used |= {step.teacher for update in self.updates for step in update.steps}
        return {row for row in used if row < len(self.constants)}


def plan(rounds: Rounds, low: Integers, high: Integers) -> Plan | None:
    """The program for accumulators from `low` to `high`, int64 [C]; None where some value passes 16 bits."""
    folded: list[dict[int, dict[tuple[int, int], int]]] = []
    ranges, added = [(low, high)], []
    for up, down in rounds:
        steps, constants = _fold(up, down, *ranges[-1])
        below, above = ranges[-1][0] + constants, ranges[-1][1] + constants
        for student, changes in steps.items():
            below[student] += sum(min(delta, 0) for delta in changes.values())
            above[student] += sum(max(delta, 0) for delta in changes.values())
        folded.append(steps)
        added.append(constants)
        ranges.append((below, above))
    total = np.zeros(len(low), np.int64)
    for constants in added:
        total += constants
    made = Plan(total)
    shift: Integers = total.copy()  # a row holds the channel's value and `shift`
    for number, (below, above) in enumerate(ranges):
        if (below + shift).min() < _LEAST or (above + shift).max() > _MOST:
            return None
        if number < len(folded):
            _schedule(made, folded[number], shift)
            shift -= added[number]
    return made


def _fold(
    up: npt.NDArray[np.int32], down: npt.NDArray[np.int32], low: Integers, high: Integers
) -> tuple[dict[int, dict[tuple[int, int], int]], Integers]:
    """student -> (teacher, limit) -> delta, and what is added to each channel in any case."""
    steps: dict[int, dict[tuple[int, int], int]] = {}
    constants = np.zeros(len(low), np.int64)
    rows = [(t, s, limit - 1, delta) for t, s, limit, delta in up.tolist()]
    for teacher, student, limit, delta in down.tolist():
        constants[student] += delta
        rows.append((teacher, student, limit, -delta))
    for teacher, student, limit, delta in rows:
        if limit < low[teacher]:
            constants[student] += delta
        elif limit < high[teacher]:
            of_student = steps.setdefault(student, {})
            of_student[teacher, limit] = of_student.get((teacher, limit), 0) + delta
    return steps, constants


def _schedule(made: Plan, steps: dict[int, dict[tuple[int, int], int]], shift: Integers) -> None:
    """Append the updates of one round."""
    waiting = {s: [(t, limit, d) for (t, limit), d in sorted(of.items()) if d] for s, of in steps.items()}
    waiting = {student: of for student, of in waiting.items() if of}
    readers: dict[int, set[int]] = {}
    for student, of in waiting.items():
        for teacher, _, _ in of:
            readers.setdefault(teacher, set()).add(student)
    where: dict[int, int] = {}  # a teacher that was updated already -> the copy of what it was
    length = 0
    while waiting:
        student = min(waiting, key=functools.partial(_urgency, waiting, readers, length))
        length = len(waiting[student])
        if readers.get(student):
            where[student] = len(made.constants) + len(where)
            made.updates.append(Update(where[student], student))
        found = tuple(Step(where.get(t, t), int(limit + shift[t]), d) for t, limit, d in waiting.pop(student))
        made.updates.append(Update(student, student, found))
        for reading in readers.values():
            reading.discard(student)
    made.copies = max(made.copies, len(where))


def _urgency(waiting: Mapping[int, Sized], readers: Mapping[int, Sized], length: int, student: int) -> tuple[int, ...]:
    """The less, the sooner: how many read it, how far its number of steps is from `length`, its number."""
    return len(readers.get(student, ())), abs(len(waiting[student]) - length), student
