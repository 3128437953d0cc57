"""The straight line: ONNX -> Relax -> packed Relax -> kernels -> Artifact."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bnncc import __version__, targets
from bnncc.options import WATCHED, Options, Quantize, Watch
from bnncc.progress import Progress, silent
from bnncc.runtime import abi, atomic, cpu
from bnncc.runtime.artifact import FORMAT, Artifact, Layer, Manifest, PassRecord, Tensor
from bnncc.runtime.errors import OptionError, printable
from bnncc.targets.target import Target
from bnncc.tvm_lock import tvm_lock

if TYPE_CHECKING:
    from bnncc.frontend.importer import Imported
    from bnncc.runtime.array import Array
    from bnncc.selection.program import Program
    from bnncc.selection.task import Task

Source = str | os.PathLike[str] | bytes  # path or content of an ONNX file
Folder = str | os.PathLike[str]


def compile(
    model: Source,
    target: str = "native",
    *,
    options: Options | None = None,
    calibrate: Mapping[str, Array] | None = None,
    dump_ir: Folder | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Compile an ONNX file for a target.

    Args:
        model: path or content of the ONNX file.
        target: a name that `bnncc targets` lists, or "native" for the best that this machine runs.
        options: what may be chosen; see `Options`.
        calibrate: input name -> samples along the first axis, and `labels` if there are any: float convolutions are
            computed in 8-bit integers, with ranges found on these samples. The manifest says what that changed.
        dump_ir: folder for the Relax module after every pass, to read; it is no checkpoint.
        progress: called with (stage, done, total).

    Raises:
        ModelError: the file is damaged, or holds what cannot be compiled.
        OptionError: no such target, or a dump_ir that cannot be written; with samples, no target runs on this machine,
            so that nothing can be calibrated here.
        InputError: samples of a wrong name, shape or type, none at all, or not finite.
    """
    chosen, options = targets.find(target), options or Options()
    if calibrate is None:
        return build(model, chosen, options, dump_ir=dump_ir, progress=progress)
    from bnncc.calibrate import Samples, compare, find_ranges
    from bnncc.runtime.model import load

    here = targets.find("native")
    # Schedules are those of the target's tasks, and of the network that is compiled in the end.
    watching = dataclasses.replace(options, float_convs=Watch(), schedules={})
    watched = load(build(model, here, watching, progress=progress))
    samples = Samples.of(calibrate, watched.manifest.inputs, watched.manifest.outputs)
    quantized = dataclasses.replace(options, float_convs=Quantize(find_ranges(watched, samples, progress)))
    artifact = build(model, chosen, quantized, dump_ir=dump_ir, progress=progress)
    # A machine of another family multiplies the same integers; what float layers before them round otherwise does not
    # change what 8 bits cost, which can be seen here just as well.
    runs_here = chosen.runs_on(cpu.host())
    if not runs_here:
        quantized = dataclasses.replace(quantized, schedules={})
    beside = load(artifact if runs_here else build(model, here, quantized, progress=progress))
    calibration = compare(watched, beside, samples, progress)
    return Artifact(dataclasses.replace(artifact.manifest, calibration=calibration), artifact.library)


def build(
    model: Source, target: Target, options: Options, *, dump_ir: Folder | None = None, progress: Progress = silent
) -> Artifact:
    """One compilation. Outputs that `Watch` added are named WATCHED and a number."""
    with tvm_lock.here():
        imported, program, passes = lower(model, target, options, dump_ir=dump_ir, progress=progress)
        from bnncc.codegen.assemble import assemble
        from bnncc.codegen.link import link

        objects, arena = assemble(program, target, options, progress)
        library = link(objects, target, abi.exports(peaks=options.peaks))
    added = len(program.outputs) - len(imported.outputs)
    outputs = (*imported.outputs, *(f"{WATCHED}{number}" for number in range(added)))
    named = [*zip(imported.inputs, program.inputs, strict=True), *zip(outputs, program.outputs, strict=True)]
    tensors = [Tensor(name, program.values[value].shape, program.values[value].dtype) for name, value in named]
    manifest = Manifest(
        format=FORMAT,
        name=_name(model),
        source_sha256=hashlib.sha256(_content(model)).hexdigest(),
        target=target.name,
        triple=target.triple,
        cpu_features=target.features,
        inputs=tuple(tensors[: len(imported.inputs)]),
        outputs=tuple(tensors[len(imported.inputs) :]),
        arena_bytes=arena,
        layers=tuple(call.layer for call in program.calls),
        passes=passes,
        calibration=None,
        versions={"bnncc": __version__} | {name: version(name) for name in ("apache-tvm", "onnx", "numpy")},
        library_sha256=hashlib.sha256(library).hexdigest(),
    )
    return Artifact(manifest, library)


def inspect(
    model: Source, target: str = "native", options: Options | None = None
) -> tuple[tuple[Layer, ...], tuple[PassRecord, ...]]:
    """What `compile` would make of the file, layer by layer, without building machine code."""
    _, program, passes = lower(model, targets.find(target), options or Options())
    return tuple(call.layer for call in program.calls), passes


def tasks(model: Source, target: str = "native", options: Options | None = None) -> dict[Task, int]:
    """Every kernel that `compile` would make of the file, in order, and how many calls of the network it has. A task's
    `kernel.schedules(task.target)` are what it may be computed with, its `key` what `Options.schedules` knows it by."""
    _, program, _ = lower(model, targets.find(target), options or Options())
    return program.tasks()


def lower(
    model: Source, target: Target, options: Options, *, dump_ir: Folder | None = None, progress: Progress = silent
) -> tuple[Imported, Program, tuple[PassRecord, ...]]:
    """The first half of `build`: file -> Relax -> passes -> kernels, before any machine code."""
    _check_home()
    from bnncc.frontend.importer import from_onnx
    from bnncc.passes import pipeline, steps
    from bnncc.selection.select import select

    if dump_ir:
        atomic.make_folder(dump_ir)
    with tvm_lock.here():
        imported = from_onnx(model, options.shapes)
        module = imported.module
        records = []
        reasons: dict[str, str] = {}
        for found in imported.recognised:
            refused = {printable(layer): printable(why) for layer, why in found.refused.items()}
            said = tuple(f"{layer}: {why}" for layer, why in refused.items())
            records.append(PassRecord(f"dialect {found.name}", 0.0, found.rewrites, said))
            reasons |= refused
        passes = [step.run for step in steps(pipeline(target, options.float_convs))]
        for number, each in enumerate(passes):
            progress("passes", number, len(passes))
            start = time.perf_counter()
            outcome = each(module)
            module, seconds = outcome.module, time.perf_counter() - start
            records.append(PassRecord(each.name, seconds, outcome.rewrites, outcome.refused))
            if dump_ir:
                atomic.write(Path(dump_ir) / f"{number:03}_{each.name}.py", module.script().encode())
        program = select(module, target, options.schedules)
        program.explain(reasons)
        if program.refused:
            records.append(PassRecord("kernel selection", 0.0, 0, tuple(map(printable, program.refused))))
    return imported, program, tuple(records)


def _check_home() -> None:
    """TVM asks for a folder to cache in when it is imported, and dies where there can be none."""
    try:
        os.environ.get("XDG_CACHE_HOME") or Path.home()
    except RuntimeError:
        raise OptionError("this user has no home folder, which TVM wants: set HOME or XDG_CACHE_HOME to one") from None


def _content(model: Source) -> bytes:
    return model if isinstance(model, bytes) else Path(model).read_bytes()


def _name(model: Source) -> str:
    return "model" if isinstance(model, bytes) else printable(Path(model).stem)
