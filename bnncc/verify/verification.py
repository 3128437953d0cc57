"""The whole comparison: samples end to end, layers at every stage, and the first stage and layer that differ."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnncc import targets
from bnncc.calibrate import Samples
from bnncc.options import Options
from bnncc.progress import Progress, silent
from bnncc.runtime import cpu
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.errors import OptionError
from bnncc.verify import execute, layers, scores, stages
from bnncc.verify.case import Case, shrink
from bnncc.verify.compare import Difference, compare
from bnncc.verify.reference import Reference
from bnncc.verify.scores import Scores
from bnncc.verify.trace import Trace, trace

if TYPE_CHECKING:
    import onnx

    from bnncc.targets.target import Target

Runs = list[dict[str, Array]]


@dataclass(frozen=True)
class StageResult:
    """What differs at one stage, one entry a check; none where the pass changed nothing."""

    name: str
    changed: bool
    seconds: float
    differences: tuple[Difference, ...]

    @property
    def wrong(self) -> tuple[Difference, ...]:
        """What rounding does not explain, in the network's order."""
        return tuple(difference for difference in self.differences if difference.wrong)


@dataclass(frozen=True)
class Failure:
    """The first stage, and the first layer there, that is not what the model says; and the case cut out."""

    stage: str
    difference: Difference
    case: Case


@dataclass(frozen=True)
class Verification:
    """Everything that was found. where: what ran the machine code. runs: how many runs of a batch layers were compared
    on. canonical: the model that other people's operators were rewritten to, beside the source; None where nothing was
    rewritten. traces: of every run whose scores moved, where all layers are right. bytes: of the artifact's file.
    notes: what was not compared."""

    model: str
    target: str
    where: str
    samples: int
    runs: int
    scores: Scores
    canonical: Scores | None
    stages: tuple[StageResult, ...]
    failure: Failure | None
    traces: tuple[Trace, ...]
    artifact: Artifact
    bytes: int
    notes: tuple[str, ...]


def verify(
    model: str | Path,
    data: Mapping[str, Array],
    *,
    target: str = "native",
    artifact: Artifact | None = None,
    options: Options | None = None,
    layer_runs: int = 1,
    passes: bool = True,
    progress: Progress = silent,
) -> Verification:
    """Compare a model with what becomes of it.

    Args:
        model: path of the ONNX file.
        data: input name -> samples along the first axis, and `labels` if there are any.
        target: what to compile for, where no artifact is given.
        artifact: compiled from the model; without one it is compiled here.
        options: of the compilation.
        layer_runs: how many runs (of a batch each) layers are compared on; the passes' naive loops are slow.
        passes: compare the module after every pass, too, and not only machine code.
        progress: called with (stage, done, total).

    Raises:
        ModelError, OptionError, InputError: as compiling and running raise them; an artifact of another model.
    """
    from bnncc import compiler
    from bnncc.frontend import dialects, onnx_file

    options = options or Options()
    chosen = targets.find(artifact.manifest.target if artifact else target)
    where = execute.where(chosen)
    source, _ = onnx_file.read(Path(model), options.shapes)
    canonical, _ = onnx_file.read(source)
    rewrites = sum(record.rewrites for record in dialects.apply(canonical))
    compiled = artifact or compiler.build(str(model), chosen, options, progress=progress)
    notes = _check_artifact(artifact, Path(model), where) if artifact else []
    samples, count, labels = _samples(data, compiled)
    rewritten = canonical if rewrites else None
    kept, *outputs = _end_to_end(source, rewritten, compiled, chosen, options, samples, progress)
    before, after, between = (_joined(each, count) for each in outputs)
    found: tuple[StageResult, ...] = ()
    traces: tuple[Trace, ...] = ()
    failure = None
    if compiled.manifest.calibration:
        notes.append("layers were not compared: 8-bit convolutions are not what the model says, by choice")
    elif layer_runs:
        found, failure = _layers(canonical, kept[:layer_runs], chosen, options, passes, progress)
        if not failure:
            traces = trace(canonical, kept, outputs[0], outputs[1], chosen, options, progress)
    return Verification(
        model=str(model),
        target=chosen.name,
        where=where,
        samples=count,
        runs=min(layer_runs, len(kept)) if found else 0,
        scores=scores.compare(before, after, labels),
        canonical=scores.compare(before, between, labels) if rewrites else None,
        stages=found,
        failure=failure,
        traces=traces,
        artifact=compiled,
        bytes=_size(compiled),
        notes=tuple(notes),
    )


def _check_artifact(artifact: Artifact, model: Path, where: str) -> list[str]:
    found = hashlib.sha256(model.read_bytes()).hexdigest()
    if found != artifact.manifest.source_sha256:
        raise OptionError(
            f"{model}: has SHA-256 {found[:12]}.., the artifact was compiled from "
            f"{artifact.manifest.source_sha256[:12]}..; give the ONNX file it was compiled from, or compile again"
        )
    if where == "this machine":
        return ["layers were compared as this bnncc compiles them for the artifact's target"]
    if artifact.manifest.calibration:
        raise OptionError(f"{where} cannot run a calibrated artifact's 8-bit convolutions; verify it on its machine")
    return [f"under {where} runs what this bnncc compiles for the artifact's target, not the file itself"]


def _samples(data: Mapping[str, Array], compiled: Artifact) -> tuple[Samples, int, Array | None]:
    """Checked samples, filled up to whole batches with the last; how many there are really, and their labels."""
    manifest = compiled.manifest
    batch = manifest.inputs[0].shape[0] if manifest.inputs[0].shape else 1
    first = data.get(manifest.inputs[0].name)
    count = len(first) if isinstance(first, np.ndarray) and first.ndim else 0
    missing = -count % batch

    def filled(array: Array) -> Array:
        if not isinstance(array, np.ndarray) or array.ndim == 0 or len(array) != count or not missing:
            return array
        return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

    every = {name: filled(array) for name, array in data.items()}
    samples = Samples.of(every, manifest.inputs, manifest.outputs, "data")
    return samples, count, None if samples.labels is None else samples.labels[:count]


def _end_to_end(
    source: onnx.ModelProto,
    canonical: onnx.ModelProto | None,
    compiled: Artifact,
    target: Target,
    options: Options,
    samples: Samples,
    progress: Progress,
) -> tuple[Runs, Runs, Runs, Runs]:
    """Of each run the inputs, and the outputs of the source, of the machine code and of the canonical model."""
    from bnncc.runtime.model import load

    reference = Reference(source)
    rewritten = Reference(canonical) if canonical else None
    kept, before, after, between = [], [], [], []

    def run_all(run: execute.Run, stage: str) -> None:
        for inputs in samples.runs(stage, progress):
            kept.append(inputs)
            before.append(reference.run(inputs))
            after.append(run(inputs))
            between.append(rewritten.run(inputs) if rewritten else before[-1])

    if target.runs_on(cpu.host()):
        loaded = load(compiled)
        run_all(lambda inputs: loaded.run(dict(inputs)), "samples")
    else:
        with execute.machine_code(source, target, options) as emulated:
            run_all(emulated, f"samples under {execute.where(target)}")
    return kept, before, after, between


def _joined(runs: Runs, count: int) -> dict[str, Array]:
    """The first `count` outputs of all runs, one behind the other."""
    return {name: np.concatenate([np.atleast_1d(run[name]) for run in runs])[:count] for name in runs[0]}


def _layers(
    model: onnx.ModelProto,
    runs: list[dict[str, Array]],
    target: Target,
    options: Options,
    passes: bool,
    progress: Progress,
) -> tuple[tuple[StageResult, ...], Failure | None]:
    watching = Reference(model, as_written=True, watched=layers.watched(model))
    values = [watching.run(inputs) | inputs for inputs in runs]
    parts = layers.segments(model, values[0])
    joined = layers.join(model, parts, values[0])
    checks = [check for part in parts for check in part.checks]
    reference = Reference(joined, as_written=True, watched=[check.source for check in checks if check.source])
    inputs = [layers.given(parts, each) for each in values]
    expected = [reference.run(each) for each in inputs]
    results: list[StageResult] = []

    def judge(name: str, run: execute.Run, start: float) -> Failure | None:
        found = [run(each) for each in inputs]
        result = StageResult(name, True, time.perf_counter() - start, tuple(compare(checks, expected, found)))
        results.append(result)
        if not result.wrong:
            return None
        progress(f"{name} differs: shrinking", 0, 1)
        first = result.wrong[0]
        part = next(part for part in parts if first.check in part.checks)
        sample = next(
            i for i in range(len(values)) if compare([first.check], expected[i : i + 1], found[i : i + 1])[0].wrong
        )
        return Failure(name, first, shrink(model, part, values[sample], name, target, options))

    if passes:
        every = list(stages.stages(joined, target, options))
        for number, stage in enumerate(every):
            progress(stage.name, number, len(every) + 1)
            start = time.perf_counter()
            if not stage.changed:
                results.append(StageResult(stage.name, False, 0.0, ()))
            elif failure := judge(stage.name, stage.runner(), start):
                return tuple(results), failure
    progress(execute.MACHINE_CODE, len(results), len(results) + 1)
    start = time.perf_counter()
    with execute.machine_code(joined, target, options) as run:
        failure = judge(execute.MACHINE_CODE, run, start)
    return tuple(results), failure


def _size(artifact: Artifact) -> int:
    """Bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.bnn"
        artifact.save(path)
        return path.stat().st_size
