"""Latency of networks: samples taken in turns, with the cost of the clock taken off, and their statistics."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnncc.runtime import timing

WARM_UP_SECONDS = 0.2
BLOCK_SECONDS = 0.02
FEWEST_SAMPLES = 20
MOST_SAMPLES = 1_000_000
CLOCK_SECONDS = 0.001

# As `BoundNetwork.time_runs`: seconds -> nanoseconds of each run, of which the first, which refills the caches that
# others have used, is left out.
TimeRuns = Callable[[float], list[int]]


@dataclass(frozen=True)
class Latency:
    """Statistics of one network's samples, in microseconds. Percentiles interpolate linearly (numpy's default)."""

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


def clock_overhead_us() -> float:
    """Median time in microseconds that taking the time of a call that does nothing takes."""
    return float(np.median(timing.in_a_row(lambda: None, CLOCK_SECONDS))) / 1e3


def measure(
    takers: Mapping[str, TimeRuns], *, seconds: float, overhead_us: float = 0.0, rest_seconds: float = 0.0
) -> dict[str, npt.NDArray[np.float64]]:
    """Time things in turns, so that whatever the machine does meanwhile meets all of them alike.

    Each is warmed up, then they take turns of at least `BLOCK_SECONDS`.

    Args:
        takers: name -> what takes the times of its runs.
        seconds: least time spent in each, warm-up apart; at least `FEWEST_SAMPLES` samples are taken anyway.
        overhead_us: taken off every sample, as `clock_overhead_us` finds it.
        rest_seconds: pause before each turn. Threads that have run dry look for more work for some milliseconds, on
            cores that the next one needs.

    Returns:
        name -> samples in microseconds, float64 [n], in the order taken.
    """
    for time_runs in takers.values():
        time_runs(WARM_UP_SECONDS)
    samples: dict[str, list[int]] = {name: [] for name in takers}
    spent = dict.fromkeys(takers, 0)
    while any(
        (spent[name] < seconds * 1e9 or len(samples[name]) < FEWEST_SAMPLES) and len(samples[name]) < MOST_SAMPLES
        for name in takers
    ):
        for name, time_runs in takers.items():
            time.sleep(rest_seconds)
            turn = time_runs(BLOCK_SECONDS)
            samples[name] += turn
            spent[name] += sum(turn)
    return {name: np.maximum(np.array(taken) / 1e3 - overhead_us, 0.0) for name, taken in samples.items()}
