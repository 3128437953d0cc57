"""Times of the layers, beside the ideal that the machine's peaks allow."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.layers import Case
from benchmarks.peaks import Peaks
from benchmarks.progress import Tell
from benchmarks.timing import FullSpeed, Median, medians, timed
from bnncc.bench.kernel import bind
from bnncc.targets.target import Target


@dataclass(frozen=True)
class LayerTime:
    """One layer, measured on one core; `ideal_us` is computed from measured peaks."""

    target: str
    name: str
    median: Median
    ideal_us: float
    gmacs: float | None
    of_peak: float | None
    gigabytes_per_second: float
    level: str

    @property
    def ratio(self) -> float:
        """Measured over ideal."""
        return self.median.us / self.ideal_us


def ideal_us(macs: int, peak: float, moved: int, bandwidth: float, *, after: bool) -> float:
    """Products at `peak` (1e9 a second) and `moved` bytes at `bandwidth` (1e9 bytes a second): side by side, or the
    bytes `after` the products. Microseconds."""
    products, bytes_ = (macs / peak / 1e3 if macs else 0.0), moved / bandwidth / 1e3
    return products + bytes_ if after else max(products, bytes_)


def measure(
    cases: Sequence[Case], target: Target, peaks: Peaks, *, seconds: float, tell: Tell, full_speed: FullSpeed
) -> list[LayerTime]:
    """All cases in turns, each for `seconds`."""
    turns = {case.name: timed(bind(case.function, target, case.arrays, case.filler)) for case in cases}
    times = medians(turns, seconds=seconds, tell=tell, full_speed=full_speed)
    rows = []
    for case in cases:
        us, level = times[case.name].us, peaks.level(case.moved)
        peak = peaks.gmacs.get(case.kernel.arithmetic, 0.0)
        gmacs = case.kernel.macs / us / 1e3 if case.kernel.macs else None
        rows.append(
            LayerTime(
                target.name,
                case.name,
                times[case.name],
                ideal_us(case.kernel.macs, peak, case.moved, level.gigabytes_per_second, after=case.after),
                gmacs,
                gmacs / peak if gmacs else None,
                case.moved / us / 1e3,
                level.name,
            )
        )
    return rows
