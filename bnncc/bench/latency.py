"""Latency of callables: samples taken in turns, with the cost of the clock taken off, and their statistics."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WARM_UP_SECONDS = 0.2
BLOCK_SECONDS = 0.02
FEWEST_SAMPLES = 20
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Latency:
    """Statistics of one callable's samples, in microseconds. Percentiles interpolate linearly (numpy's default)."""

    n: int
    min_us: float
    median_us: float
    p90_us: float
    p99_us: float
    mean_us: float
    samples_us: tuple[float, ...] = ()
    kind: str = "measured"

    @classmethod
    def of(cls, samples_us: npt.NDArray[np.float64], *, keep: bool = False) -> "Latency":
        """Statistics of a non-empty float64 [n]; `keep` carries the samples along."""
        median, p90, p99 = np.percentile(samples_us, (50, 90, 99))
        return cls(
            n=len(samples_us),
            min_us=float(samples_us.min()),
            median_us=float(median),
            p90_us=float(p90),
            p99_us=float(p99),
            mean_us=float(samples_us.mean()),
            samples_us=tuple(map(float, samples_us)) if keep else (),
        )

    def report(self) -> dict[str, object]:
        """The fields for a JSON report; samples only if they were kept."""
        fields = dataclasses.asdict(self)
        if not self.samples_us:
            del fields["samples_us"]
        return fields


def clock_overhead_us(call: Callable[[], object], repeats: int = 2000) -> float:
    """Median time in microseconds that timing `call`, which should do next to nothing, takes."""
    return float(np.median([_timed(call) for _ in range(repeats)])) / 1e3


def measure(
    calls: Mapping[str, Callable[[], object]], *, seconds: float, overhead_us: float = 0.0, rest_seconds: float = 0.0
) -> dict[str, npt.NDArray[np.float64]]:
    """Time callables in turns, so that whatever the machine does meanwhile meets all of them alike.

    Each is warmed up, then they take turns in blocks of at least `BLOCK_SECONDS`; the first call of a block refills
    the caches the others have used and is not counted.

    Args:
        calls: name -> what to time.
        seconds: least time spent in each callable, warm-up apart; at least `FEWEST_SAMPLES` samples are taken anyway.
        overhead_us: taken off every sample, as `clock_overhead_us` finds it.
        rest_seconds: pause before each block. Threads that have run dry look for more work for some milliseconds, on
            cores that the next callable needs.

    Returns:
        name -> samples in microseconds, float64 [n], in the order taken.
    """
    for call in calls.values():
        _block(call, WARM_UP_SECONDS)
    samples: dict[str, list[int]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0)
    while any(
        (spent[name] < seconds * 1e9 or len(samples[name]) < FEWEST_SAMPLES) and len(samples[name]) < MOST_SAMPLES
        for name in calls
    ):
        for name, call in calls.items():
            time.sleep(rest_seconds)
            call()
            block = _block(call, BLOCK_SECONDS)
            samples[name] += block
            spent[name] += sum(block)
    return {name: np.maximum(np.array(taken) / 1e3 - overhead_us, 0.0) for name, taken in samples.items()}


def _block(call: Callable[[], object], seconds: float) -> list[int]:
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


def _timed(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start
