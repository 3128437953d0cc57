"""Timing things in turns on one core: medians that meet whatever else the machine does alike.

A turn in which the process had to wait for the core (other programs run, too) says nothing about the code, and shows
as wall time beyond the thread's CPU time. Nor does one in which something else ran on the same physical core: no clock
shows that, but arithmetic beside the turn then takes longer than it ever did. Such turns are set aside. When too few
are left, those stand in whose core was slowed least, or CPU times of all where the process had to wait in nearly all.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from benchmarks.progress import Tell, silent

BLOCK_SECONDS = 0.002  # one thing's turn: shorter than the scheduler's time slices
FEWEST_TURNS = 9
MOST_TURNS = 2000
PATIENCE = 5  # times the seconds asked for, while turns are being disturbed
_WAITED = 1.02  # wall time over CPU time from which on a turn counts as disturbed
_PIECES = 50
SLOWED = 1.06  # time over the least time, of the same arithmetic, from which on a core counts as shared

Key = TypeVar("Key")
Repeat = Callable[[int], object]  # runs the thing so many times


@dataclass(frozen=True)
class Turn:
    """One turn: seconds of wall time and of CPU time, and how many times longer than ever the arithmetic beside it
    took, because of another program's work on the same physical core."""

    wall: float
    cpu: float
    slowed: float = 1.0

    @property
    def disturbed(self) -> bool:
        """Whether the core did something else meanwhile."""
        return self.waited or self.slowed > SLOWED

    @property
    def waited(self) -> bool:
        """Whether the process was off the core for some of the time."""
        return self.wall > _WAITED * self.cpu + 2e-6


Timed = Callable[[int], Turn]


class FullSpeed:
    """How far the core is from being all ours: how many times longer `_PIECES` pieces of arithmetic in registers, of
    some us each, take than they ever did."""

    def __init__(self, arithmetic: Repeat) -> None:
        self._arithmetic = arithmetic
        self._least = min(self._seconds() for _ in range(400))

    def __call__(self) -> float:
        taken = self._seconds()
        self._least = min(self._least, taken)
        return taken / self._least

    def _seconds(self) -> float:
        self._arithmetic(1)  # brings its code back
        start = time.perf_counter()
        self._arithmetic(_PIECES)
        return time.perf_counter() - start


def unknown_speed() -> float:
    """Takes every turn for undisturbed, where nothing else is known of it."""
    return 1.0


@dataclass(frozen=True)
class Median:
    """Median time of one execution in microseconds. `clock` is "wall", or "cpu" where the process had to wait in all
    but a few turns. disturbed: how many of the `turns` were; where that leaves too few, the least slowed stood in."""

    us: float
    turns: int
    disturbed: int
    clock: str
    kind: str = "measured"


def pin(core: int | None = None) -> int:
    """Bind this process, and what it starts, to one core: `core`, or the last one it may use. Returns it."""
    chosen = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def timed(run: Repeat) -> Timed:
    """`run`, with the clocks read around it."""

    def turn(times: int) -> Turn:
        wall, cpu = time.perf_counter(), time.thread_time()
        run(times)
        return Turn(time.perf_counter() - wall, time.thread_time() - cpu)

    return turn


def repeat(call: Callable[[], object]) -> Repeat:
    """A loop around a call that is long enough not to notice it."""

    def run(times: int) -> None:
        for _ in range(times):
            call()

    return run


def calibrate(turn: Timed) -> int:
    """How often a thing fits into about `BLOCK_SECONDS`; warms it up, too."""
    turn(1)
    times, taken = 1, turn(1).cpu
    while taken < BLOCK_SECONDS / 2 and times < 1 << 30:
        times = max(times * 2, min(times * 100, int(times * BLOCK_SECONDS / max(taken, 1e-7))))
        taken = turn(times).cpu
    return times


def best(run: Repeat, tries: int = 100) -> float:
    """Fewest seconds that one execution took, over several turns; of the undisturbed ones, if there are any."""
    turn = timed(run)
    times = calibrate(turn)
    turns = [turn(times) for _ in range(tries)]
    return min(one.wall for one in [one for one in turns if not one.disturbed] or turns) / times


def medians(
    turns: Mapping[Key, Timed],
    *,
    seconds: float,
    tell: Tell = silent,
    full_speed: Callable[[], float] = unknown_speed,
) -> dict[Key, Median]:
    """Medians of things that take turns, each for `seconds` in all and `FEWEST_TURNS` turns at least. Between turns
    `tell` hears how much is done; before and after each `full_speed` is asked."""
    times = {name: calibrate(turn) for name, turn in turns.items()}
    taken: dict[Key, list[Turn]] = {name: [] for name in turns}
    quiet = dict.fromkeys(turns, 0.0)
    while waiting := [name for name in turns if not _enough(taken[name], seconds)]:
        tell(sum(min(1.0, one / seconds) for one in quiet.values()) / len(turns))
        for name in waiting:
            turns[name](1)  # refills the caches that the others have used
            full_speed()  # a core that comes from lighter work takes a while to reach it
            before = full_speed()
            turn = turns[name](times[name])
            taken[name].append(replace(turn, slowed=max(before, full_speed())))
            quiet[name] += 0.0 if taken[name][-1].disturbed else turn.wall
    return {name: _median(blocks, times[name]) for name, blocks in taken.items()}


def _enough(taken: list[Turn], seconds: float) -> bool:
    quiet = [turn for turn in taken if not turn.disturbed]
    if len(taken) >= MOST_TURNS or (len(taken) >= FEWEST_TURNS and sum(t.wall for t in taken) > PATIENCE * seconds):
        return True
    return len(quiet) >= FEWEST_TURNS and sum(turn.wall for turn in quiet) >= seconds


def _median(taken: list[Turn], times: int) -> Median:
    quiet = [turn for turn in taken if not turn.disturbed]
    on_core = sorted((turn for turn in taken if not turn.waited), key=lambda turn: turn.slowed)
    enough = len(on_core) >= FEWEST_TURNS
    used = quiet if len(quiet) >= FEWEST_TURNS else on_core[:FEWEST_TURNS]
    middle = float(np.median([turn.wall for turn in used] if enough else [turn.cpu for turn in taken]))
    return Median(middle / times * 1e6, len(taken), len(taken) - len(quiet), "wall" if enough else "cpu")
