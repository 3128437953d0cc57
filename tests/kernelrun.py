"""Kernels against themselves: what they write when their work is divided, on every target that runs here."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from tvm import tirx

from bnncc.bench.kernel import call, load
from bnncc.runtime.abi import ALIGNMENT
from bnncc.runtime.array import Array
from bnncc.targets import runnable
from bnncc.targets.target import Target
from bnncc.tir import shares
from tests import guarded

Test = TypeVar("Test", bound=Callable[..., None])


def each_target(test: Test) -> Test:
    """Run a test for every target whose code this machine runs; all but the best one count as slow."""
    here = runnable()
    marks = ((), *((pytest.mark.slow,) for _ in here[1:]))
    params = [pytest.param(t, id=t.name, marks=mark) for t, mark in zip(here, marks, strict=False)]
    decorated: Test = pytest.mark.parametrize("target", params)(test)
    return decorated


def run(kernel: tirx.PrimFunc, target: Target, *arrays: Array) -> None:
    """Call the kernel on C-contiguous arrays; it writes into those that are its outputs, which hold rubbish before.

    The work is also divided, in every way from two calls to four: no two calls may write the same byte, and together
    they must write what one call for everything writes.
    """
    assert all(array.flags.c_contiguous for array in arrays)
    function, count = load({"kernel": kernel}, target)["kernel"], shares.units(kernel)
    before = [_copy(array) for array in arrays]
    for at_end in (False, True):
        whole = [_between_guards(array, at_end) for array in arrays]
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


def _copy(array: Array) -> Array:
    """The array, followed by the bytes that a kernel may read and not use, as in the arena."""
    room = np.full(array.nbytes + ALIGNMENT, 0x55, np.uint8)
    copy = room[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _between_guards(array: Array, at_end: bool) -> Array:
    """The same between pages that nobody may touch, as a tensor at the start of the arena, or at its end."""
    lines = -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    room = guarded.memory(lines + ALIGNMENT, at_end=at_end, alignment=ALIGNMENT)
    copy = room[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _bytes(array: Array) -> npt.NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
