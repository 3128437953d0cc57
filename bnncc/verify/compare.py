"""Outputs of segments beside the reference: integers by ==, signs with their distance from the threshold, floats with a
tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bnncc.runtime.array import Array
from bnncc.verify.layers import Check, Kind, decoded

# Of a float tensor's largest number: what another order of a sum changes.
TOLERANCE = 1e-4
# Of the largest number of the tensor whose signs are taken: nearer to the threshold, rounding may turn a sign.
ROUNDING = 1e-5
MOST_LISTED = 20


@dataclass(frozen=True)
class Flip:
    """A sign that differs. sample and index: where; margin: |x - threshold|, None where no float stands in front."""

    sample: int
    index: tuple[int, ...]
    margin: float | None


@dataclass(frozen=True)
class Difference:
    """What one check found at one stage. differ: how many of `total` numbers or bits; largest: of their differences;
    flips: signs, at most MOST_LISTED; excused: whether rounding explains all of it."""

    check: Check
    total: int
    differ: int
    largest: float
    flips: tuple[Flip, ...]
    excused: bool

    @property
    def kind(self) -> Kind:
        return self.check.kind

    @property
    def wrong(self) -> bool:
        """Whether the layer is not what the model says."""
        return self.differ > 0 and not self.excused


def compare(
    checks: Sequence[Check], expected: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]
) -> list[Difference]:
    """One difference for each check, over all samples; `expected` holds the sources of signs, too."""
    return [_compare(check, expected, found) for check in checks]


def _compare(check: Check, expected: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> Difference:
    total = differ = 0
    largest, flips, excused = 0.0, [], True
    for sample, (theirs, ours) in enumerate(zip(expected, found, strict=True)):
        want, got = theirs[check.output], ours[check.output]
        total += want.size
        if want.shape != got.shape:
            return Difference(check, want.size, want.size, float("inf"), (), False)
        if (want == got).all():
            continue
        if check.kind == "signs":
            want, got = decoded(check, want), decoded(check, got)
        off = ~((want == got) | ((want != want) & (got != got)))
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.abs(np.where(off, want.astype(np.float64) - got.astype(np.float64), 0.0))
        gap = float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))
        largest = max(largest, gap)
        differ += int(off.sum())
        if check.kind == "signs":
            listed, explained = _flips(check, sample, off, theirs)
            flips += listed
            excused &= explained
        elif check.kind == "values" and want.dtype.kind == "f":
            finite = np.abs(want[np.isfinite(want)])
            excused &= gap <= TOLERANCE * float(finite.max(initial=0.0))
        else:
            excused = False
    return Difference(check, total, differ, largest, tuple(flips[:MOST_LISTED]), excused)


def _flips(check: Check, sample: int, off: Array, theirs: Mapping[str, Array]) -> tuple[list[Flip], bool]:
    """The signs that differ, and whether all of them are so near the threshold that rounding explains them."""
    places = np.argwhere(off)
    x = theirs.get(check.source)
    if x is None or x.shape != off.shape:
        return [Flip(sample, tuple(map(int, place)), None) for place in places[:MOST_LISTED]], False
    margins = np.abs(x.astype(np.float64) - check.threshold)
    order = np.argsort(-margins[off], kind="stable")
    listed = [Flip(sample, tuple(map(int, places[i])), float(margins[tuple(places[i])])) for i in order[:MOST_LISTED]]
    near = ROUNDING * float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    return listed, bool((margins[off] <= near).all())
