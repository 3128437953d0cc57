"""Graphs of channel interactions (CI-BCNN, Wang et al., CVPR 2019): which channels of a layer correct which.

An edge adds Phi(r[teacher]) to r[student] at every pixel, r being the integers that the convolution gives:

    Phi(x) = sum over up: delta * [x >= threshold]  +  sum over down: delta * [x <= threshold]

The two lists are independent, so that every step function is one: the paper's (`closed_form`), that of the code
released with it (`released`), and the one that the miners use (`stepped`).

Edges act at once (a snapshot: every Phi reads the r that the convolution gave), or one after the other: then a teacher
that was a student before is read as changed. The latter is the former in several rounds, cut before such an edge.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import channel_interaction
from bnncc.runtime import npz
from bnncc.runtime.errors import InputError, OptionError

Table = npt.NDArray[np.int32]
Steps = tuple[tuple[int, int], ...]

COLUMNS = 5  # of a row: round, teacher, student, threshold, delta
MOST_ROUNDS = 1 << 10


class Edge(NamedTuple):
    """Phi of one pair of channels; `up` and `down` are (threshold, delta)."""

    teacher: int
    student: int
    up: Steps
    down: Steps


def stepped(teacher: int, student: int, strength: int, *, unit: int, thresholds: Sequence[int]) -> Edge:
    """Phi(x) = strength * unit * sum over T in thresholds: [x >= T] - [x <= -T]; every T above 0."""
    if strength == 0 or unit < 1 or min(thresholds, default=0) < 1:
        raise OptionError(
            f"stepped: strength {strength}, unit {unit} and thresholds {tuple(thresholds)} are given; allowed are a "
            "strength other than 0, a unit of at least 1, and thresholds from 1. Leave an edge of strength 0 out."
        )
    delta = strength * unit
    return Edge(teacher, student, tuple((t, delta) for t in thresholds), tuple((-t, -delta) for t in thresholds))


def closed_form(teacher: int, student: int, strength: int, *, unit: int = 2, width: int, inputs: int) -> Edge:
    """Phi(x) = sgn(strength) * unit * trunc(|strength| * x / width) for |x| <= inputs, all that a convolution can give.

    It is one consistent reading of the paper, which says "a step function in integer multiples of a unit U_0". Neither
    U_0 nor the bins' `width` are known; 2 is the least change of a sum of signs, and `inputs` (channels times taps) the
    order of magnitude that suits `width`.
    """
    if width < 1 or strength == 0:
        raise OptionError(
            f"closed_form: strength {strength} and width {width} are given; allowed are a strength other than 0 and "
            "a width of at least 1."
        )
    bins = range(1, abs(strength) * inputs // width + 1)
    thresholds = [-(-bin * width // abs(strength)) for bin in bins]
    if not thresholds:
        raise OptionError(
            f"closed_form: strength {strength} never reaches a step of width {width} with {inputs} inputs; "
            f"allowed are widths up to {abs(strength) * inputs}."
        )
    return stepped(teacher, student, 1 if strength > 0 else -1, unit=unit, thresholds=thresholds)


def released(
    teacher: int,
    student: int,
    influence: float,
    *,
    level: float = 0.04,
    threshold: int = 200,
    delta: int = 100,
    asymmetric: bool = False,
) -> Edge | None:
    """The released code's edge: `delta` at +-`threshold` in the direction of `influence`; None from -level to level.

    asymmetric: as that code computes it for negative influence: -delta on both sides. It is no odd function, and most
    likely a wrong sign; wanted only where a checkpoint was trained with it.
    """
    if -level <= influence <= level:
        return None
    edge = stepped(teacher, student, 1 if influence > 0 else -1, unit=delta, thresholds=[threshold])
    return edge._replace(down=((-threshold, -delta),)) if asymmetric and influence < 0 else edge


@dataclass(frozen=True, eq=False)
class InteractionGraph:
    """Edges between the output channels of one layer, as plain arrays.

    channels  of the layer
    up, down  int32 [steps, 5], rows (round, teacher, student, threshold, delta), rounds ascending; rows of one round
              read the same integers

    OptionError: a row that points outside the channels or back to its own channel, or too many or too large steps
    (bnncc/ops/channel_interaction.py has the bounds).
    """

    channels: int
    up: Table
    down: Table

    def __post_init__(self) -> None:
        for name in ("up", "down"):
            table = np.array(getattr(self, name))
            if table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != COLUMNS:
                raise OptionError(
                    f"InteractionGraph: {name} is {table.dtype} {list(table.shape)}; allowed is int32 "
                    f"[steps, {COLUMNS}], rows (round, teacher, student, threshold, delta)."
                )
            rounds = table[:, 0]
            if rounds.size and (rounds[0] < 0 or rounds[-1] >= MOST_ROUNDS or (np.diff(rounds) < 0).any()):
                raise OptionError(
                    f"InteractionGraph: rounds of {name} are not in order; allowed are ascending whole numbers from 0 "
                    f"to {MOST_ROUNDS - 1}. Build the graph with InteractionGraph.of."
                )
            table.setflags(write=False)
            object.__setattr__(self, name, table)
        # All rounds as one: the bound on what a channel changes by is for their sum.
        reason = channel_interaction.why_not(self.up[:, 1:], self.down[:, 1:], self.channels)
        if reason:
            raise OptionError(f"InteractionGraph of {self.channels} channels: {reason}.")

    @classmethod
    def of(cls, channels: int, edges: Sequence[Edge] = (), *, sequential: bool = False) -> Self:
        """The graph of `edges`, which act at once, or with `sequential` one after the other in this order."""
        up: list[tuple[int, ...]] = []
        down: list[tuple[int, ...]] = []
        number, students = 0, set[int]()
        for edge in edges:
            if sequential and edge.teacher in students:
                number, students = number + 1, set()
            students.add(edge.student)
            up += [(number, edge.teacher, edge.student, *step) for step in edge.up]
            down += [(number, edge.teacher, edge.student, *step) for step in edge.down]
        return cls(channels, _table(up), _table(down))

    @classmethod
    def of_released(
        cls,
        channels: int,
        teachers: Sequence[int],
        students: Sequence[int],
        influences: Sequence[float],
        *,
        sequential: bool = True,
        asymmetric: bool = False,
        level: float = 0.04,
        threshold: int = 200,
        delta: int = 100,
    ) -> Self:
        """What the released code trains: lists of equal length, applied in their order; see `released`.

        Warns where `sequential=False` changes what the network computes, since that code trains sequentially.
        """
        made = (
            released(t, s, i, level=level, threshold=threshold, delta=delta, asymmetric=asymmetric)
            for t, s, i in zip(teachers, students, influences, strict=True)
        )
        edges = [edge for edge in made if edge is not None]
        graph = cls.of(channels, edges, sequential=True)
        if sequential:
            return graph
        if graph.rounds > 1:
            warnings.warn(
                "InteractionGraph.of_released: a teacher was a student before, and sequential=False reads it "
                "unchanged; the code that trained these edges reads it as changed. Pass sequential=True.",
                stacklevel=2,
            )
        return cls.of(channels, edges)

    @property
    def rounds(self) -> int:
        """How many times one after the other; 0 for a graph without edges."""
        return 1 + max((int(table[-1, 0]) for table in (self.up, self.down) if len(table)), default=-1)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(teacher, student) of every edge, ascending."""
        pairs = np.concatenate([self.up, self.down])[:, 1:3]
        return [(int(t), int(s)) for t, s in np.unique(pairs, axis=0)]

    def tables(self) -> list[tuple[Table, Table]]:
        """(up, down) of each round, int32 [steps, 4]: what the operator ChannelInteraction takes."""
        return [(self.up[self.up[:, 0] == i, 1:], self.down[self.down[:, 0] == i, 1:]) for i in range(self.rounds)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .npz file of `channels`, `up` and `down`. OptionError: it cannot be written there."""
        npz.write(path, {"channels": np.array(self.channels, np.int64), "up": self.up, "down": self.down})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; nothing is unpickled. InputError: it is no such file, or no valid graph."""
        arrays = npz.read_any(path)
        if set(arrays) != {"channels", "up", "down"} or arrays["channels"].shape != ():
            shown = ", ".join(sorted(map(ascii, arrays)))[:200]
            raise InputError(
                f"{path}: found arrays {shown}; allowed are a number channels, and up and down. "
                "Give a file that InteractionGraph.save wrote."
            )
        try:
            return cls(int(arrays["channels"]), arrays["up"], arrays["down"])
        except OptionError as error:
            raise InputError(f"{path}: {error}") from error


def fraction_thresholds(fractions: Sequence[float], inputs: int) -> tuple[int, ...]:
    """Whole thresholds at these fractions of `inputs` (channels times taps, the largest that |r| can be), from 1.

    The released code's 200 is 0.07 to 0.28 of its layers'. On trained networks |r| rarely reaches 0.25.
    """
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise OptionError(f"fraction_thresholds: found {tuple(fractions)}; allowed are fractions above 0, up to 1.")
    return tuple(max(1, math.ceil(fraction * inputs)) for fraction in fractions)


def quantile_thresholds(quantiles: Sequence[float], counts: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Whole thresholds, from 1, that this share of |r| stays below; counts[v] is how often |r| was v: int64 [V]."""
    if not all(0 <= quantile < 1 for quantile in quantiles):
        raise OptionError(f"quantile_thresholds: found {tuple(quantiles)}; allowed are quantiles from 0, below 1.")
    reached = np.cumsum(counts)
    places = [int(np.searchsorted(reached, quantile * reached[-1], side="right")) for quantile in quantiles]
    return tuple(max(1, place) for place in places)


def _table(rows: list[tuple[int, ...]]) -> Table:
    try:
        return np.array(rows, np.int32).reshape(-1, COLUMNS)
    except OverflowError:
        raise OptionError(
            "InteractionGraph: a step holds a number outside int32; allowed are thresholds up to "
            f"{channel_interaction.MOST_THRESHOLD} and deltas up to {channel_interaction.MOST_CHANGE}."
        ) from None
