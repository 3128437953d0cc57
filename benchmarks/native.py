"""Kernels in this process: compiled, linked with a loop around them, and bound to arrays."""

import ctypes
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.codegen.entry import build_entry
from bnncc.codegen.link import link
from bnncc.codegen.llvm import compile_object
from bnncc.runtime import cpu
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import shares

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Bound:
    """A kernel with its arguments; `bound(times)` runs it so often without leaving machine code."""

    function: Any
    pointers: tuple[ctypes.c_void_p, ...]
    arrays: tuple[Array, ...]  # keeps them alive

    def __call__(self, times: int) -> None:
        self.function(ctypes.c_int64(times), *self.pointers)


def runnable(names: Sequence[str]) -> tuple[Target, ...]:
    """Those of the targets called `names` whose code this machine runs."""
    here = cpu.features()
    return tuple(
        target
        for target in (TARGETS[name] for name in names)
        if target.machine == cpu.machine() and here.issuperset(target.features)
    )


def aligned(shape: Sequence[int] | int, dtype: str) -> Array:
    """Zeros that start at a cache line."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count].view(dtype).reshape(shape)


def bind(kernel: tirx.PrimFunc, target: Target, arrays: Sequence[Array], padding: tirx.PrimFunc | None = None) -> Bound:
    """Compile `kernel` for `target` and bind it to copies of `arrays`, its parameters in order. `padding` fills
    arrays[2] from arrays[0] before."""
    kept = []
    for array in arrays:
        kept.append(aligned(array.shape, array.dtype.str))
        kept[-1][...] = array
    functions, calls = {"kernel": kernel}, [_Call("kernel", tuple(range(len(kept))), shares.units(kernel))]
    if padding is not None:
        functions["padding"] = padding
        calls.insert(0, _Call("padding", (0, 2), shares.units(padding)))
    library = open_library(functions, {"loop": _loop(len(kept), calls)}, target)
    return Bound(library.loop, tuple(ctypes.c_void_p(array.ctypes.data) for array in kept), tuple(kept))


def open_library(functions: dict[str, tirx.PrimFunc], callers: dict[str, tirx.PrimFunc], target: Target) -> ctypes.CDLL:
    """A library of all of them. `callers` are objects of their own, so that nothing of `functions` is inlined there."""
    objects = [compile_object(part, target) for part in (functions, callers) if part]
    library = link([*objects, _memory_functions(target)], target, exports=(*functions, *callers))
    # A file of its own name: the dynamic linker takes a path it has seen for the library it has loaded.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(library)
        return ctypes.CDLL(str(path))


@dataclass(frozen=True)
class _Call:
    """One call in a loop: which of the loop's arguments it takes, and the kernel's units, 0 for none."""

    symbol: str
    arguments: tuple[int, ...]
    units: int


def _loop(arguments: int, calls: Sequence[_Call]) -> tirx.PrimFunc:
    """int32 loop(int64 times, arguments...)."""
    with IRBuilder() as ib, T.prim_func():
        times = T.arg("times", T.int64())
        buffers = [T.arg(f"a{i}", T.buffer((1,), "uint8")) for i in range(arguments)]
        with T.serial(tirx.const(0, "int64"), times):
            for call in calls:
                pointers = [T.address_of(buffers[i][0]) for i in call.arguments]
                T.evaluate(T.call_extern("int32", call.symbol, *pointers, *((0, call.units) if call.units else ())))
    return ib.get()


@functools.cache
def _memory_functions(target: Target) -> bytes:
    """The object of an empty network: it brings memset and memcpy, which LLVM may call."""
    return build_entry([], 0, 0, b"", 0, target)
