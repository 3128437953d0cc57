"""One way to run a model at any stage: as a pass leaves it, or as machine code, here or under an emulator."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnncc import compiler
from bnncc.runtime import cpu
from bnncc.runtime.array import Array
from bnncc.runtime.errors import OptionError
from bnncc.runtime.model import load
from bnncc.verify import emulate, stages

if TYPE_CHECKING:
    import onnx

    from bnncc.options import Options
    from bnncc.targets.target import Target

Run = Callable[[Mapping[str, Array]], dict[str, Array]]

MACHINE_CODE = "machine code"


def where(target: Target) -> str:
    """Where code for `target` runs: "this machine", or the emulator's name. OptionError: nowhere."""
    if target.runs_on(cpu.host()):
        return "this machine"
    if target.machine == cpu.host().machine:
        raise OptionError(f"target {target.name!r} does not run on this CPU; bnncc targets lists those that do")
    if reason := emulate.missing(target):
        raise OptionError(f"target {target.name!r} does not run here: {reason}")
    return emulate.MACHINES[target.machine].qemu


@contextlib.contextmanager
def machine_code(model: onnx.ModelProto, target: Target, options: Options) -> Iterator[Run]:
    """The model compiled for `target`, ready to run."""
    content = model.SerializeToString()
    if target.runs_on(cpu.host()):
        artifact = load(compiler.build(content, target, options))
        yield lambda inputs: artifact.run(dict(inputs))
        return
    with tempfile.TemporaryDirectory() as folder:
        program = emulate.Program(content, target, Path(folder), options)
        yield lambda inputs: program.run_named(dict(inputs))


@contextlib.contextmanager
def at_stage(name: str, model: onnx.ModelProto, target: Target, options: Options) -> Iterator[Run]:
    """The model at the stage of that name. OptionError: there is no such stage."""
    if name == MACHINE_CODE:
        with machine_code(model, target, options) as run:
            yield run
        return
    found = next((stage for stage in stages.stages(model, target, options) if stage.name == name), None)
    if found is None:
        raise OptionError(f"stage {name!r}: there is no such pass for target {target.name!r}; was it another bnncc?")
    yield found.runner()
