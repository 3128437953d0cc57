"""The threads that this process has already, or would have for any other library: those of libgomp.

Nothing is installed for it: libgomp comes with GCC's runtime on nearly every Linux. Its functions are a stable ABI, the
one that GCC writes calls to for `#pragma omp parallel`.
"""

import ctypes
import functools
import os
import warnings
import weakref
from dataclasses import dataclass

from bnncc.runtime import abi
from bnncc.runtime.errors import OptionError

MOST_THREADS = 64
_LIBRARY = "libgomp.so.1"


class ThreadsWarning(UserWarning):
    """Several threads were asked for and one runs."""


@dataclass(frozen=True, eq=False)
class Team:
    """The functions that run a library on several threads, by address, and how many threads: 1 after a fork."""

    functions: tuple[int, ...]
    threads: ctypes.c_int32

    def table(self, *pointers: int) -> ctypes.Array[ctypes.c_void_p]:
        """The functions, then inputs, outputs and arena, as `bnncc_run_threads` takes them."""
        return (ctypes.c_void_p * (len(self.functions) + len(pointers)))(*self.functions, *pointers)


def team(threads: int) -> Team | None:
    """A team of so many threads; None for one thread, and, with a `ThreadsWarning`, where there is no libgomp.

    Raises:
        OptionError: no such number of threads.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise OptionError(f"threads {threads}: allowed are 1 to {MOST_THREADS}, best as many as there are cores")
    if threads == 1:
        return None
    functions = _functions()
    if _forked or not functions:
        why = f"{_LIBRARY} is not on this machine; install it (Debian, Ubuntu, Raspberry Pi OS: apt install libgomp1)"
        if _forked:
            why = f"this process was forked after {_LIBRARY} was loaded; load it in a process of its own (spawn)"
        warnings.warn(f"{threads} threads were asked for and one runs: {why}", ThreadsWarning, stacklevel=5)
        return None
    made = Team(functions, ctypes.c_int32(threads))
    _teams.add(made)
    return made


_teams: weakref.WeakSet[Team] = weakref.WeakSet()
_forked = False


@functools.cache
def _functions() -> tuple[int, ...]:
    """Addresses of what `bnncc_run_threads` wants; nothing where libgomp is missing."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        found = {
            abi.Team.GOMP_PARALLEL: library.GOMP_parallel,
            abi.Team.OMP_GET_THREAD_NUM: library.omp_get_thread_num,
            abi.Team.SCHED_YIELD: ctypes.CDLL(None).sched_yield,
        }
    except (OSError, AttributeError):
        return ()
    os.register_at_fork(after_in_child=_after_fork)
    return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for _, function in sorted(found.items()))


def _after_fork() -> None:
    """libgomp's threads are not in a forked process, but libgomp waits for them."""
    global _forked
    _forked = True
    for known in _teams:
        known.threads.value = 1
