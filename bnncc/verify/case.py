"""The smallest failing case: the model cut to one layer, one input made as plain as it may be, both outputs; and its
replay.

A folder of case.onnx, input.npz, expected.npz (onnxruntime's), found.npz and case.json.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnncc import __version__, targets
from bnncc.options import Options
from bnncc.runtime import atomic, npz
from bnncc.runtime.array import Array
from bnncc.runtime.errors import InputError
from bnncc.verify import execute, layers
from bnncc.verify.compare import Difference, compare
from bnncc.verify.layers import Check
from bnncc.verify.reference import Reference

if TYPE_CHECKING:
    import onnx

    from bnncc.targets.target import Target

FORMAT = 1
SHRINK_SECONDS = 20.0
MOST_JSON = 1 << 20


@dataclass(frozen=True)
class Case:
    """A model of one segment that differs at one stage."""

    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    checks: tuple[Check, ...]
    stage: str
    target: str
    expected: Mapping[str, Array]
    found: Mapping[str, Array]

    def differences(self) -> list[Difference]:
        """What differs between the two outputs."""
        return compare(self.checks, [self.expected], [self.found])

    @property
    def differs(self) -> bool:
        """Whether rounding does not explain it."""
        return any(difference.wrong for difference in self.differences())

    def write(self, folder: Path) -> None:
        """Write it; each file is whole or not there. OptionError: it cannot be written."""
        atomic.make_folder(folder)
        atomic.write(folder / "case.onnx", self.model.SerializeToString())
        for name, arrays in (("input", self.inputs), ("expected", self.expected), ("found", self.found)):
            npz.write(folder / f"{name}.npz", arrays)
        about = {
            "format": FORMAT,
            "bnncc": __version__,
            "stage": self.stage,
            "target": self.target,
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }
        atomic.write(folder / "case.json", (json.dumps(about, indent=2) + "\n").encode())


def shrink(
    model: onnx.ModelProto,
    segment: layers.Segment,
    values: Mapping[str, Array],
    stage: str,
    target: Target,
    options: Options,
) -> Case:
    """The segment alone, and as much of its input 0 as can be while it still differs. values: of one run, in which it
    differs. Where the segment alone does not differ, its input is left as it is."""
    alone = layers.join(model, [segment], values)
    reference = _reference(alone, segment.checks)
    inputs = layers.given([segment], values)
    with execute.at_stage(stage, alone, target, options) as run:

        def case(arrays: Mapping[str, Array]) -> Case:
            return Case(alone, arrays, segment.checks, stage, target.name, reference.run(arrays), run(arrays))

        best = case(inputs)
        until = time.monotonic() + SHRINK_SECONDS
        for name in inputs if best.differs else ():
            size = step = inputs[name].size
            while step and time.monotonic() < until:
                for start in range(0, size, step):
                    flat = best.inputs[name].reshape(-1).copy()
                    if time.monotonic() > until or not flat[start : start + step].any():
                        continue
                    flat[start : start + step] = 0
                    tried = case({**best.inputs, name: flat.reshape(inputs[name].shape)})
                    best = tried if tried.differs else best
                step = step // 4 if step > 4 else step // 2
    return best


def replay(folder: Path) -> Case:
    """Run a written case again: `found` is what comes out now. InputError: it is no such folder, or damaged."""
    from bnncc.frontend import onnx_file

    path = folder / "case.json"
    about = _about(path)
    model, _ = onnx_file.read(folder / "case.onnx")
    outputs = {output.name for output in model.graph.output}
    checks = _checks(about.get("checks"), path)
    for check in checks:
        if check.output not in outputs:
            raise InputError(f"{path}: case.onnx has no output {check.output!a}; let bnncc verify write the case again")
    stage, target = str(about.get("stage")), targets.find(str(about.get("target")))
    inputs = npz.read_any(folder / "input.npz")
    expected = _reference(model, checks).run(inputs)
    with execute.at_stage(stage, model, target, Options()) as run:
        return Case(model, inputs, checks, stage, target.name, expected, run(inputs))


def _reference(model: onnx.ModelProto, checks: tuple[Check, ...]) -> Reference:
    return Reference(model, as_written=True, watched=[check.source for check in checks if check.source])


def _about(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_JSON))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a model or a folder of a case") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON; let bnncc verify write the case again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path}: is no case of format {FORMAT}; let bnncc verify write it again")
    return found


def _checks(found: object, path: Path) -> tuple[Check, ...]:
    """Every field of its type and within bounds."""
    try:
        if not isinstance(found, list):
            raise TypeError("checks")
        return tuple(_check(entry) for entry in found)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({str(error)!a}); let bnncc verify write it again") from error


def _check(entry: Mapping[str, object]) -> Check:
    output, layer, source, kind = (entry[name] for name in ("output", "layer", "source", "kind"))
    channels, groups, threshold = (entry[name] for name in ("channels", "groups", "threshold"))
    if not (isinstance(output, str) and isinstance(layer, str) and isinstance(source, str)):
        raise TypeError("output, layer, source")
    if not (isinstance(channels, int) and isinstance(groups, int) and isinstance(threshold, int | float)):
        raise TypeError("channels, groups, threshold")
    if kind != "sums" and kind != "signs" and kind != "values":
        raise ValueError("kind")
    if groups < 1 or not 0 <= channels <= layers.MOST_PROBED * groups or not np.isfinite(threshold):
        raise ValueError("channels, groups, threshold")
    return Check(output, kind, layer, source, float(threshold), channels, groups)
