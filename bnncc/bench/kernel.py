"""Kernels in this process, one by one: compiled, linked, loaded, and called with numpy arrays. Needs TVM."""

import ctypes
import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.codegen.entry import build_entry
from bnncc.codegen.link import link
from bnncc.codegen.llvm import compile_object
from bnncc.runtime import abi
from bnncc.runtime.array import Array
from bnncc.targets.target import Target
from bnncc.tir import shares
from bnncc.tvm_lock import tvm_lock


def load(
    functions: Mapping[str, tirx.PrimFunc], target: Target, *, callers: Mapping[str, tirx.PrimFunc] | None = None
) -> dict[str, abi.Function]:
    """The compiled functions by name. `callers` are an object of their own, so that nothing is inlined there."""
    parts = [dict(part) for part in (functions, callers or {}) if part]
    names = tuple(name for part in parts for name in part)
    with tvm_lock.here():
        objects = [compile_object(part, target) for part in parts]
        library = link([*objects, _memory_functions(target)], target, names)
    # A file of its own name: the dynamic linker takes a path it has seen for the library it has loaded.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(library)
        loaded = ctypes.CDLL(str(path))
    return {name: getattr(loaded, name) for name in names}


def call(function: abi.Function, arrays: Sequence[Array], units: tuple[int, ...] = ()) -> None:
    """Call a loaded kernel on C-contiguous arrays, its parameters in order; one that has units, for those from the
    first to before the second of `units`."""
    status = function(*_pointers(arrays), *map(ctypes.c_int32, units))
    if status != 0:
        raise RuntimeError(f"the kernel returned {status}")


def peak(function: abi.Function, kind: abi.PeakKind, iterations: int) -> int:
    """Call what `codegen.peak` builds: multiply-accumulates made."""
    done = ctypes.c_int64(0)
    function(ctypes.c_int32(kind), ctypes.c_int64(iterations), ctypes.byref(done))
    return done.value


def aligned(shape: Sequence[int] | int, dtype: str) -> Array:
    """Zeros that start as the arena does."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + abi.ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % abi.ALIGNMENT
    return memory[start : start + count].view(dtype).reshape(shape)


@dataclass(frozen=True)
class Bound:
    """A kernel with its arguments; `bound(times)` runs it so often without leaving machine code."""

    function: abi.Function
    pointers: tuple[ctypes.c_void_p, ...]
    arrays: tuple[Array, ...]  # keeps them alive

    def __call__(self, times: int) -> None:
        self.function(ctypes.c_int64(times), *self.pointers)


def bind(kernel: tirx.PrimFunc, target: Target, arrays: Sequence[Array], padding: tirx.PrimFunc | None = None) -> Bound:
    """Compile `kernel` for `target` and bind it to aligned copies of `arrays`, its parameters in order. `padding` fills
    arrays[2] from arrays[0] before."""
    kept = []
    for array in arrays:
        kept.append(aligned(array.shape, array.dtype.str))
        kept[-1][...] = array
    functions, calls = {"kernel": kernel}, [_Call("kernel", tuple(range(len(kept))), shares.units(kernel))]
    if padding is not None:
        functions["padding"] = padding
        calls.insert(0, _Call("padding", (0, 2), shares.units(padding)))
    loaded = load(functions, target, callers={"loop": _loop(len(kept), calls)})
    return Bound(loaded["loop"], _pointers(kept), tuple(kept))


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
            for each in calls:
                pointers = [T.address_of(buffers[i][0]) for i in each.arguments]
                T.evaluate(T.call_extern("int32", each.symbol, *pointers, *((0, each.units) if each.units else ())))
    return ib.get()


def _pointers(arrays: Sequence[Array]) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(array.ctypes.data) for array in arrays)


@functools.cache
def _memory_functions(target: Target) -> bytes:
    """The object of an empty network: it brings memset and memcpy, which LLVM may call."""
    return build_entry([], 0, 0, b"", 0, target)
