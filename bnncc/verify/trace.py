"""Why scores moved although every layer alone is right: the first sign that turned, and how far that spread.

Float layers round otherwise than onnxruntime's do. A sign whose number lies within that rounding of its threshold may
turn, and what it feeds turns further ones; with random weights one sign in front of a network's middle moves the scores
by a tenth. So a run that moved is done again with all numbers that signs are taken of as further outputs, here and in
onnxruntime. Where the first sign that differs lies near its threshold, rounding explains it. Else, or where the
further outputs change the scores again, nothing does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bnncc.progress import Progress
from bnncc.runtime.array import Array
from bnncc.verify import execute, layers, scores
from bnncc.verify.compare import ROUNDING, TOLERANCE
from bnncc.verify.reference import Reference

if TYPE_CHECKING:
    import onnx

    from bnncc.options import Options
    from bnncc.targets.target import Target


@dataclass(frozen=True)
class Turn:
    """Signs in front of one layer that differ from onnxruntime's: `differ` of `total`. margin: the largest
    |x - threshold| among them; largest: the largest |x| there."""

    layer: str
    differ: int
    total: int
    margin: float
    largest: float

    @property
    def rounding(self) -> bool:
        """Whether rounding turned them."""
        return self.margin <= ROUNDING * self.largest


@dataclass(frozen=True)
class Trace:
    """One run. first, last: the numbers of its samples; moved: by how much of the largest score. turns: the layers
    whose signs differ, in the network's order. same: whether machine code with further outputs gives the artifact's
    scores. reference: by how much onnxruntime's own optimisations move them."""

    first: int
    last: int
    moved: float
    turns: tuple[Turn, ...]
    same: bool
    reference: float

    @property
    def explained(self) -> bool:
        """Whether rounding explains it."""
        return self.same and (self.turns[0].rounding if self.turns else self.reference > TOLERANCE)

    def __str__(self) -> str:
        samples = f"sample {self.first}" if self.first == self.last else f"samples {self.first} to {self.last}"
        word = "rounding explains it" if self.explained else "NOT EXPLAINED"
        return f"{samples}: moved by {self.moved:.2g} of the largest score; {self._why()}: {word}"

    def _why(self) -> str:
        if not self.same:
            return "not so where signs are watched"
        if not self.turns:
            return f"no sign turned; onnxruntime's own optimisations move it by {self.reference:.2g}"
        first, last = self.turns[0], self.turns[-1]
        return (
            f"first {first.differ} of {first.total} signs turned before {first.layer}, at {first.margin:.2g} from the "
            f"threshold, the largest being {first.largest:.3g}; {last.differ} of {last.total} before {last.layer}"
        )


def trace(
    model: onnx.ModelProto,
    runs: Sequence[Mapping[str, Array]],
    before: Sequence[Mapping[str, Array]],
    after: Sequence[Mapping[str, Array]],
    target: Target,
    options: Options,
    progress: Progress,
) -> tuple[Trace, ...]:
    """Every run whose scores moved.

    Args:
        model: canonical.
        runs: the inputs of each run.
        before, after: onnxruntime's and the artifact's outputs of each run.
    """
    by = [scores.relative(want, got) for want, got in zip(before, after, strict=True)]
    moved = [i for i, change in enumerate(by) if change > TOLERANCE]
    if not moved:
        return ()
    signed = layers.signed(model)
    batch = len(next(iter(runs[0].values())))
    written = Reference(model, as_written=True, watched=list(signed))
    watched = layers.with_outputs(model, list(signed), written.run(runs[0]))
    found = []
    with execute.machine_code(watched, target, options) as run:
        for number, i in enumerate(moved):
            progress("tracing what moved", number, len(moved))
            theirs, ours = written.run(runs[i]), run(runs[i])
            turns = (_turn(sign, theirs[name], ours[name]) for name, sign in signed.items())
            again = {name: ours[name] for name in after[i]}
            found.append(
                Trace(
                    first=i * batch,
                    last=i * batch + batch - 1,
                    moved=by[i],
                    turns=tuple(turn for turn in turns if turn),
                    same=scores.relative(after[i], again) <= TOLERANCE,
                    reference=scores.relative(before[i], {name: theirs[name] for name in before[i]}),
                )
            )
    return tuple(found)


def _turn(sign: layers.Sign, want: Array, got: Array) -> Turn | None:
    off = sign.of(want) != sign.of(got)
    if not off.any():
        return None
    margins = np.nan_to_num(np.abs(want[off].astype(np.float64) - sign.threshold), nan=np.inf)
    largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
    return Turn(sign.layer, int(off.sum()), off.size, float(margins.max()), largest)
