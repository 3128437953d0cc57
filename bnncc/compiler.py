"""The straight line: ONNX -> Relax -> packed Relax -> kernels -> Artifact."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bnncc import __version__, atomic, targets
from bnncc.artifact import FORMAT, Artifact, Layer, Manifest, PassRecord, Tensor
from bnncc.targets.target import Target

if TYPE_CHECKING:
    from bnncc.build.program import Program
    from bnncc.frontend.importer import Imported

Progress = Callable[[str, int, int], None]
Shapes = Mapping[str, tuple[int, ...]]


def compile(
    model: str | os.PathLike[str] | bytes,
    target: str = "native",
    *,
    shapes: Shapes | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile an ONNX file for a target.

    Args:
        model: path or content of the ONNX file.
        target: a name that `bnncc targets` lists, or "native" for the best that this machine runs.
        shapes: input name -> shape, for inputs with dynamic dimensions.
        dump_ir: folder for the Relax module after every pass, to read; it is no checkpoint.
        progress: called with (stage, done, total).

    Raises:
        ModelError: the file is damaged, or holds what cannot be compiled.
        OptionError: no such target, or a dump_ir that cannot be written.
    """
    from bnncc.build.assemble import assemble
    from bnncc.build.link import link

    chosen = targets.find(target)
    imported, program, passes = lower(model, chosen, shapes=shapes, dump_ir=dump_ir, progress=progress)
    objects, arena = assemble(program, chosen, progress)
    library = link(objects, chosen)
    named = [*zip(imported.inputs, program.inputs, strict=True), *zip(imported.outputs, program.outputs, strict=True)]
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
    shapes: Shapes | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Imported, Program, tuple[PassRecord, ...]]:
    """The first half of `compile`: file -> Relax -> passes -> kernels, before any machine code."""
    from bnncc.build.select import select
    from bnncc.frontend.importer import from_onnx
    from bnncc.passes import pipeline

    if dump_ir:
        atomic.make_folder(dump_ir)
    imported = from_onnx(model, shapes or {})
    module, records = imported.module, []
    steps = pipeline(target)
    for number, step in enumerate(steps):
        if progress:
            progress("passes", number, len(steps))
        start = time.perf_counter()
        module = step(module)
        seconds = time.perf_counter() - start
        records.append(
            PassRecord(step.info.name, seconds, getattr(step, "rewrites", 0), tuple(getattr(step, "skipped", ())))
        )
        if dump_ir:
            atomic.write(Path(dump_ir) / f"{number:03}_{step.info.name}.py", module.script().encode())
    return imported, select(module, target), tuple(records)


def _content(model: str | os.PathLike[str] | bytes) -> bytes:
    return model if isinstance(model, bytes) else Path(model).read_bytes()


def _name(model: str | os.PathLike[str] | bytes) -> str:
    return "model" if isinstance(model, bytes) else Path(model).stem
