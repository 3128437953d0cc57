"""bnncc: binary neural networks from PyTorch to the board.

    bnncc.export(module, example, "net.onnx")            # torch -> ONNX
    artifact = bnncc.compile("net.onnx", target="arm")   # ONNX -> Artifact
    artifact.save("net.bnn")
    model = bnncc.load("net.bnn")                        # on the machine that runs it
    y = model(x)                                         # numpy in, numpy out

What these raise is in `bnncc.errors`. Importing this package loads nothing else: torch, tvm and onnx come in when the
function that needs them is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bnncc.runtime import errors as errors

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import numpy.typing as npt
    import torch

    from bnncc.frontend.capture import Example
    from bnncc.runtime.artifact import Artifact
    from bnncc.runtime.model import Model

__version__ = "0.1.0"


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example: Example,
    path: str | os.PathLike[str],
    *,
    check: bool = True,
) -> None:
    """Write a torch module to an ONNX file with operators of the domain `bnncc`; see `bnncc.frontend.export.export`."""
    from bnncc.frontend import export as frontend

    frontend.export(module, example, path, check=check)


def compile(
    model: str | os.PathLike[str] | bytes,
    target: str = "native",
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    calibrate: Mapping[str, npt.NDArray[Any]] | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Artifact:
    """Compile an ONNX file for a target; see `bnncc.compiler.compile`."""
    from bnncc import compiler

    return compiler.compile(model, target, shapes=shapes, calibrate=calibrate, dump_ir=dump_ir, progress=progress)


def load(source: str | os.PathLike[str] | Artifact, threads: int = 1) -> Model:
    """Make an artifact ready to run on this machine; see `bnncc.runtime.model.load`."""
    from bnncc.runtime import model as runtime

    return runtime.load(source, threads)
