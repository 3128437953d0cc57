"""The interface of a compiled library, for those who write it and those who call it: symbols, arguments, alignment.

    int32 bnncc_run(inputs..., outputs..., arena)               the whole network on the calling thread
    int32 bnncc_step(int32 layer, inputs..., outputs..., arena) one layer, on what the arena holds; none past the last
    int32 bnncc_run_threads(int32 threads, void* const* table)  the whole network on several threads; table: the
                                                                functions of `Team`, then inputs..., outputs..., arena
    int32 bnncc_peak(int32 kind, int64 iterations, int64* done) arithmetic alone, where it was asked for: *done is set
                                                                to the multiply-accumulates that were made

Each returns 0. Tensors are C-contiguous and in the manifest's order, the arena starts at a multiple of ALIGNMENT. After
the whole network the arena of one with layers of kind CHECK_INDICES begins with the `IndexRecord`. The library needs no
other but, for some networks, libm, and on 32-bit ARM libgcc.
"""

import ctypes
import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

RUN = "bnncc_run"
STEP = "bnncc_step"
RUN_THREADS = "bnncc_run_threads"
PEAK = "bnncc_peak"

CHECK_INDICES = "check_indices"  # the kind of layers that look at indices before others use them

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

T = TypeVar("T")
Function = Callable[..., int]
Number = type[ctypes.c_int32] | type[ctypes.c_int64] | type[ctypes.c_void_p]


class PeakKind(enum.IntEnum):
    """Arithmetic that `bnncc_peak` makes: xor, popcount and add; fused multiply-add; dot products of bytes."""

    BINARY = 0
    FLOAT32 = 1
    INT8 = 2

    @property
    def label(self) -> str:
        """The name in reports: "binary", "float32" or "int8"."""
        return self.name.lower()


class Team(enum.IntEnum):
    """Places of the table that `bnncc_run_threads` takes; each function is at the place of its name."""

    GOMP_PARALLEL = 0  # void GOMP_parallel(void (*worker)(void*), void* data, unsigned threads, unsigned flags)
    OMP_GET_THREAD_NUM = 1  # int omp_get_thread_num(void)
    SCHED_YIELD = 2  # int sched_yield(void)
    TENSORS = 3  # the first of inputs, outputs and arena


class IndexRecord(enum.IntEnum):
    """int64 values at the start of the arena of a network that checks indices: the number of the check that found the
    first index outside, 0 where there is none; that index; the extent of its axis."""

    CHECK = 0
    INDEX = 1
    EXTENT = 2


def exports(*, peaks: bool) -> tuple[str, ...]:
    """The symbols of a library; only one that was compiled with `peaks` has PEAK."""
    return (RUN, RUN_THREADS, STEP, PEAK) if peaks else (RUN, RUN_THREADS, STEP)


def arguments(inputs: Sequence[T], outputs: Sequence[T], arena: T) -> tuple[T, ...]:
    """What `bnncc_run` takes, in order; the other entry points take it last."""
    return (*inputs, *outputs, arena)


class Functions(NamedTuple):
    """A library's functions, ready to be called with numbers and ctypes values. peak: None where it has none."""

    run: Function
    run_threads: Function
    step: Function
    peak: Function | None


def declare(library: ctypes.CDLL, tensors: int) -> Functions:
    """The functions of a library for a network of so many inputs and outputs together.

    Raises:
        AttributeError: it lacks one.
    """
    pointers: list[Number] = [ctypes.c_void_p] * (tensors + 1)
    peak = (
        _declared(library, PEAK, [ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p]) if hasattr(library, PEAK) else None
    )
    return Functions(
        run=_declared(library, RUN, pointers),
        run_threads=_declared(library, RUN_THREADS, [ctypes.c_int32, ctypes.c_void_p]),
        step=_declared(library, STEP, [ctypes.c_int32, *pointers]),
        peak=peak,
    )


def _declared(library: ctypes.CDLL, symbol: str, parameters: Sequence[Number]) -> Function:
    function = getattr(library, symbol)
    function.argtypes, function.restype = parameters, ctypes.c_int32
    declared: Function = function
    return declared
