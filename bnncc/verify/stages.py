"""The Relax module on import and after every pass, each operator run as TVM legalises it: none of our kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from bnncc.ops.relax import register
from bnncc.runtime.array import Array

if TYPE_CHECKING:
    import onnx

    from bnncc.options import Options
    from bnncc.targets.target import Target

IMPORT = "import"


@dataclass(frozen=True)
class Stage:
    """The network after one pass, or on import. changed: whether the pass did anything."""

    name: str
    module: tvm.IRModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    changed: bool = True

    def runner(self) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """A function of inputs by ONNX name to outputs by ONNX name."""
        call = Executable(self.module)
        return lambda inputs: dict(zip(self.outputs, call(*(inputs[name] for name in self.inputs)), strict=True))


def stages(model: onnx.ModelProto, target: Target, options: Options) -> Iterator[Stage]:
    """Each stage of lowering a canonical model, in order. A pass that runs again has its number behind its name."""
    from bnncc import passes
    from bnncc.frontend import importer

    imported = importer.from_onnx(model)
    module = imported.module
    yield Stage(IMPORT, module, imported.inputs, imported.outputs)
    times: Counter[str] = Counter()
    for step in passes.steps(passes.pipeline(target, options.float_convs)):
        after = step.run(module).module
        changed = not tvm_ffi.structural_equal(after, module)
        module = after
        times[step.run.name] += 1
        name = step.run.name if times[step.run.name] == 1 else f"{step.run.name} {times[step.run.name]}"
        yield Stage(name, module, imported.inputs, imported.outputs, changed)


class Executable:
    """`main` of a module as a function of arrays."""

    def __init__(self, module: tvm.IRModule) -> None:
        register()
        built = tvm.compile(module, tvm.target.Target({"kind": "llvm"}))
        self._machine = relax.VirtualMachine(built, tvm.cpu())

    def __call__(self, *inputs: Array) -> tuple[Array, ...]:
        result = self._machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in inputs))
        outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return tuple(output.numpy() for output in outputs)


def evaluate(module: tvm.IRModule, *inputs: Array) -> tuple[Array, ...]:
    """The outputs of `main`."""
    return Executable(module)(*inputs)
