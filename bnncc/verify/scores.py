"""Answers and scores: top-1 and top-5 with confidence intervals, agreement, how far scores moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnncc.runtime.array import Array

Z = 1.959963984540054  # of the normal distribution: 95 % lie within
MOST_LISTED = 50


@dataclass(frozen=True)
class Rate:
    """hits of total, and the bounds of Wilson's interval of 95 %."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson, E. B. (1927): it stays within [0, 1] and holds for few samples and for rates near 1."""
        n, p = self.total, self.value
        center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return max(0.0, center - half), min(1.0, center + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} [{low:.2%}, {high:.2%}]"


@dataclass(frozen=True)
class Changed:
    """A sample whose answer changed. margin: by how much the answer before led over the answer after, in the scores
    before, as a part of the largest of them: near 0 the sample was undecided."""

    sample: int
    before: int
    after: int
    margin: float


@dataclass(frozen=True)
class Scores:
    """Two runs of the same samples. top-1 and top-5 are None without labels, agreement without classes."""

    samples: int
    largest: float
    mean: float
    relative: float
    agreement: Rate | None
    changed: tuple[Changed, ...]
    top1: tuple[Rate, Rate] | None
    top5: tuple[Rate, Rate] | None


def compare(before: dict[str, Array], after: dict[str, Array], labels: Array | None) -> Scores:
    """before and after: outputs by name, samples along the first axis; the first of shape [samples, classes] is what
    answers are taken of."""
    gaps = {name: _gaps(want, after[name]) for name, want in before.items()}
    largest = max((float(gap.max(initial=0.0)) for gap in gaps.values()), default=0.0)
    mean = float(np.mean([gap.mean() for gap in gaps.values() if gap.size] or [0.0]))
    samples = max(len(array) for array in before.values())
    name = next((n for n, a in before.items() if a.ndim == 2 and a.shape[1] > 1 and a.dtype.kind == "f"), None)
    if name is None:
        return Scores(samples, largest, mean, relative(before, after), None, (), None, None)
    want, got = before[name], after[name]
    first, second = want.argmax(1), got.argmax(1)
    scale = float(np.abs(np.nan_to_num(want)).max()) or 1.0
    changed = tuple(
        Changed(int(i), int(first[i]), int(second[i]), float(want[i, first[i]] - want[i, second[i]]) / scale)
        for i in np.flatnonzero(first != second)
    )
    top = [[_top(scores, labels, k) for scores in (want, got)] for k in (1, 5)] if labels is not None else None
    return Scores(
        samples,
        largest,
        mean,
        relative(before, after),
        Rate(samples - len(changed), samples),
        changed,
        (top[0][0], top[0][1]) if top else None,
        (top[1][0], top[1][1]) if top and want.shape[1] > 5 else None,
    )


def relative(before: Mapping[str, Array], after: Mapping[str, Array]) -> float:
    """The largest difference as a part of the largest number of its output."""
    return max((_relative(want, after[name]) for name, want in before.items()), default=0.0)


def _relative(want: Array, got: Array) -> float:
    largest = float(np.abs(np.nan_to_num(want.astype(np.float64))).max(initial=0.0))
    return float(_gaps(want, got).max(initial=0.0)) / (largest or 1.0)


def _gaps(want: Array, got: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(want.astype(np.float64) - got.astype(np.float64))
    same = (want == got) | ((want != want) & (got != got))
    return np.where(same, 0.0, np.nan_to_num(gaps, nan=np.inf))


def _top(scores: Array, labels: Array, k: int) -> Rate:
    """How many samples have their label among the k largest scores; of equal scores the first counts, as in argmax."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Rate(int((best == labels[:, None]).any(axis=1).sum()), len(labels))
