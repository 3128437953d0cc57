"""bnncc: binary neural networks from PyTorch to the board.

    bnncc.export(module, example, "net.onnx")            # torch -> ONNX
    artifact = bnncc.compile("net.onnx", target="arm")   # ONNX -> Artifact
    artifact.save("net.bnn")
    model = bnncc.load("net.bnn")                        # on the machine that runs it
    y = model(x)                                         # numpy in, numpy out

What these raise is in bnncc.errors. Importing this package loads nothing else: torch, tvm and onnx come in when the
function that needs them is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnncc.runtime import errors as errors

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import torch

    from bnncc.frontend.capture import Example
    from bnncc.kernels.schedule import Schedule
    from bnncc.runtime.array import Array
    from bnncc.runtime.artifact import Artifact
    from bnncc.runtime.model import Model
    from bnncc.selection.task import Task

__version__ = "0.1.0"


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example: Example,
    path: str | os.PathLike[str],
    *,
    check: bool = True,
) -> None:
    """Write a torch module to an ONNX file with operators of the domain `bnncc`; see `bnncc.frontend.export.export`."""
    from bnncc.frontend import export

    export.export(module, example, path, check=check)


def compile(
    model: str | os.PathLike[str] | bytes,
    target: str = "native",
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    calibrate: Mapping[str, Array] | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    peaks: bool = False,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Artifact:
    """Compile an ONNX file for a target; see `bnncc.compiler.compile`, and `bnncc.options.Options` for shapes,
    schedules and peaks."""
    from bnncc import compiler
    from bnncc.options import Options
    from bnncc.progress import silent

    options = Options(shapes=shapes or {}, schedules=schedules or {}, peaks=peaks)
    return compiler.compile(
        model, target, options=options, calibrate=calibrate, dump_ir=dump_ir, progress=progress or silent
    )


def tasks(
    model: str | os.PathLike[str] | bytes,
    target: str = "native",
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[Task, int]:
    """The kernels of a compiled network with how often each is called, to choose schedules for; see
    `bnncc.compiler.tasks`."""
    from bnncc import compiler
    from bnncc.options import Options

    return compiler.tasks(model, target, Options(shapes=shapes or {}))


def load(source: str | os.PathLike[str] | Artifact, threads: int = 1) -> Model:
    """Make an artifact ready to run on this machine; see `bnncc.runtime.model.load`."""
    from bnncc.runtime import model

    return model.load(source, threads)
