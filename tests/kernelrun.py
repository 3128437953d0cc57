"""Compile one kernel, load it into this process and call it with numpy arrays."""

import ctypes
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from tvm import tirx

from bnncc.codegen.entry import build_entry
from bnncc.codegen.link import link
from bnncc.codegen.llvm import compile_object
from bnncc.codegen.memory_plan import ALIGNMENT
from bnncc.runtime import cpu
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import shares

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
    return build_entry([], 0, 0, b"", 0, target)


def load(kernel: tirx.PrimFunc, target: Target) -> Any:
    """The kernel as a ctypes function."""
    library = link([compile_object({"kernel": kernel}, target), _memory_functions(target)], target, exports=("kernel",))
    # A file of its own name: the dynamic linker takes a path it has seen for the library it has loaded.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(library)
        return ctypes.CDLL(str(path)).kernel


def run(kernel: tirx.PrimFunc, target: Target, *arrays: Array) -> None:
    """Call the kernel on C-contiguous arrays; it writes into those that are its outputs, which hold rubbish before.

    The work is also divided, in every way from two calls to four: no two calls may write the same byte, and together
    they must write what one call for everything writes.
    """
    assert all(array.flags.c_contiguous for array in arrays)
    function, count = load(kernel, target), shares.units(kernel)
    before = [_copy(array) for array in arrays]
    whole = [_copy(array) for array in arrays]
    call(function, whole, (0, count) if count else ())
    for array, result in zip(arrays, whole, strict=True):
        array[...] = result
    if not count:
        return
    changed = [not np.array_equal(_bytes(a), _bytes(b)) for a, b in zip(arrays, before, strict=True)]
    for parts in range(2, 5):
        together = [_copy(array) for array in before]
        writers = [np.zeros(array.nbytes, int) for array in arrays]
        for part in reversed(range(parts)):
            only = (count * part // parts, count * (part + 1) // parts)
            call(function, together, only)
            # Twice, on rubbish and on its complement: what is equal then was written.
            first, second = ([_copy(array) for array in before] for _ in range(2))
            for array, is_output in zip(second, changed, strict=True):
                if is_output:
                    np.invert(_bytes(array), out=_bytes(array))
            call(function, first, only)
            call(function, second, only)
            for written, a, b in zip(writers, first, second, strict=True):
                written += _bytes(a) == _bytes(b)
        for array, other, written, is_output in zip(arrays, together, writers, changed, strict=True):
            np.testing.assert_array_equal(_bytes(other), _bytes(array))
            assert not is_output or (written == 1).all(), f"bytes written by none or several of {parts} calls"


def call(function: Any, arrays: Sequence[Array], units: tuple[int, ...] = ()) -> None:
    """Call a loaded kernel on arrays, for the units from the first to before the second if it has units."""
    assert function(*(ctypes.c_void_p(array.ctypes.data) for array in arrays), *map(ctypes.c_int32, units)) == 0


def _copy(array: Array) -> Array:
    """The array, followed by the bytes that a kernel may read and not use, as in the arena."""
    room = np.full(array.nbytes + ALIGNMENT, 0x55, np.uint8)
    copy = room[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _bytes(array: Array) -> npt.NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
