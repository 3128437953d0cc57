"""Taking times of calls in this process."""

import time
from collections.abc import Callable, Sequence


def in_a_row(call: Callable[[], object], seconds: float) -> list[int]:
    """Nanoseconds of each call made until `seconds` are over; at least one."""
    clock, taken = time.perf_counter_ns, []
    end = clock() + seconds * 1e9
    now = 0.0
    while now < end:
        start = clock()
        call()
        now = clock()
        taken.append(now - start)
    return taken


def sweeps(calls: Sequence[Callable[[], object]], seconds: float) -> list[list[int]]:
    """Nanoseconds of each of `calls`, all of them in order and over again until `seconds` are over; at least once."""
    clock, taken = time.perf_counter_ns, []
    end = clock() + seconds * 1e9
    now = 0.0
    while now < end:
        times = []
        for call in calls:
            start = clock()
            call()
            times.append(clock() - start)
        taken.append(times)
        now = clock()
    return taken
