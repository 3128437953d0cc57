"""Compile one kernel, load it into this process and call it with numpy arrays."""

import ctypes
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import pytest
from tvm import tirx

from bnncc import cpu
from bnncc.build.codegen import compile_object
from bnncc.build.entry import build_entry
from bnncc.build.link import link
from bnncc.targets import TARGETS
from bnncc.targets.target import Target

Array = npt.NDArray[Any]
Test = TypeVar("Test", bound=Callable[..., None])


def each_target(test: Test) -> Test:
    """Run a test for every target whose code this machine runs; all but the best one count as slow."""
    here = cpu.features()
    runnable = [t for t in TARGETS.values() if t.machine == cpu.machine() and here.issuperset(t.features)]
    marks = ((), *((pytest.mark.slow,) for _ in runnable[1:]))
    params = [pytest.param(t, id=t.name, marks=mark) for t, mark in zip(runnable, marks, strict=False)]
    decorated: Test = pytest.mark.parametrize("target", params)(test)
    return decorated


@functools.cache
def _memory_functions(target: Target) -> bytes:
    """The object of an empty network: it brings memset and memcpy, which LLVM may call."""
    return build_entry([], 0, 0, b"", target)


def load(kernel: tirx.PrimFunc, target: Target) -> Any:
    """The kernel as a ctypes function."""
    library = link([compile_object({"kernel": kernel}, target), _memory_functions(target)], target, exports=("kernel",))
    # A file of its own name: the dynamic linker takes a path it has seen for the library it has loaded.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(library)
        return ctypes.CDLL(str(path)).kernel


def run(kernel: tirx.PrimFunc, target: Target, *arrays: Array) -> None:
    """Call the kernel on C-contiguous arrays; it writes into those that are its outputs."""
    assert all(array.flags.c_contiguous for array in arrays)
    assert load(kernel, target)(*(ctypes.c_void_p(array.ctypes.data) for array in arrays)) == 0
