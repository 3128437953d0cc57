"""The straight line: ONNX -> Relax -> packed Relax -> kernels -> Artifact."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnncc import __version__, targets
from bnncc.progress import Progress
from bnncc.runtime import atomic
from bnncc.runtime.artifact import FORMAT, Artifact, Layer, Manifest, PassRecord, Tensor
from bnncc.targets.target import Target

if TYPE_CHECKING:
    import numpy.typing as npt

    from bnncc.frontend.importer import Imported
    from bnncc.selection.program import Program

Shapes = Mapping[str, tuple[int, ...]]


def compile(
    model: str | os.PathLike[str] | bytes,
    target: str = "native",
    *,
    shapes: Shapes | None = None,
    calibrate: Mapping[str, npt.NDArray[Any]] | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile an ONNX file for a target.

    Args:
        model: path or content of the ONNX file.
        target: a name that `bnncc targets` lists, or "native" for the best that this machine runs.
        shapes: input name -> shape, for inputs with dynamic dimensions.
        calibrate: input name -> samples along the first axis, and `labels` if there are any: float convolutions are
            computed in 8-bit integers, with ranges found on these samples. The manifest says what that changed.
        dump_ir: folder for the Relax module after every pass, to read; it is no checkpoint.
        progress: called with (stage, done, total).

    Raises:
        ModelError: the file is damaged, or holds what cannot be compiled.
        OptionError: no such target, or a dump_ir that cannot be written.
        InputError: samples of a wrong name, shape or type, none at all, or not finite.
    """
    chosen = targets.find(target)
    if calibrate is None:
        return build(model, chosen, shapes=shapes, dump_ir=dump_ir, progress=progress)
    from bnncc.calibrate import compile_int8

    return compile_int8(
        lambda chosen, **options: build(model, chosen, shapes=shapes, progress=progress, **options),
        chosen,
        calibrate,
        dump_ir=dump_ir,
        progress=progress,
    )


def build(
    model: str | os.PathLike[str] | bytes,
    chosen: Target,
    *,
    float_convs: Any = None,
    shapes: Shapes | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """One compilation; `float_convs` as in `passes.pipeline`. Outputs that a pass added are named WATCHED and a
    number."""
    from bnncc.codegen.assemble import assemble
    from bnncc.codegen.link import link
    from bnncc.passes.watch_convs import WATCHED

    imported, program, passes = lower(
        model, chosen, float_convs=float_convs, shapes=shapes, dump_ir=dump_ir, progress=progress
    )
    objects, arena = assemble(program, chosen, progress)
    library = link(objects, chosen)
    added = len(program.outputs) - len(imported.outputs)
    outputs = (*imported.outputs, *(f"{WATCHED}{number}" for number in range(added)))
    named = [*zip(imported.inputs, program.inputs, strict=True), *zip(outputs, program.outputs, strict=True)]
    tensors = [Tensor(name, program.values[value].shape, program.values[value].dtype) for name, value in named]
    manifest = Manifest(
        format=FORMAT,
        name=_name(model),
        source_sha256=hashlib.sha256(_content(model)).hexdigest(),
        target=chosen.name,
        triple=chosen.triple,
        cpu_features=chosen.features,
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
    model: str | os.PathLike[str] | bytes, target: str = "native", *, shapes: Shapes | None = None
) -> tuple[tuple[Layer, ...], tuple[PassRecord, ...]]:
    """What `compile` would make of the file, layer by layer, without building machine code."""
    _, program, passes = lower(model, targets.find(target), shapes=shapes)
    return tuple(call.layer for call in program.calls), passes


def lower(
    model: str | os.PathLike[str] | bytes,
    target: Target,
    *,
    float_convs: Any = None,
    shapes: Shapes | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Imported, Program, tuple[PassRecord, ...]]:
    """The first half of `compile`: file -> Relax -> passes -> kernels, before any machine code."""
    from bnncc.frontend.importer import from_onnx
    from bnncc.passes import pipeline, steps
    from bnncc.selection.select import select

    if dump_ir:
        atomic.make_folder(dump_ir)
    imported = from_onnx(model, shapes or {})
    module, records = imported.module, []
    passes = [step.run for step in steps(pipeline(target, float_convs))]
    for number, each in enumerate(passes):
        if progress:
            progress("passes", number, len(passes))
        start = time.perf_counter()
        outcome = each(module)
        module, seconds = outcome.module, time.perf_counter() - start
        records.append(PassRecord(each.name, seconds, outcome.rewrites, outcome.refused))
        if dump_ir:
            atomic.write(Path(dump_ir) / f"{number:03}_{each.name}.py", module.script().encode())
    return imported, select(module, target), tuple(records)


def _content(model: str | os.PathLike[str] | bytes) -> bytes:
    return model if isinstance(model, bytes) else Path(model).read_bytes()


def _name(model: str | os.PathLike[str] | bytes) -> str:
    return "model" if isinstance(model, bytes) else Path(model).stem
