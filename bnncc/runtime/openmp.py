"""The threads that this process has already, or would have for any other library: those of libgomp.

Nothing is installed for it: libgomp comes with GCC's runtime on nearly every Linux. Its functions are a stable ABI, the
one that GCC writes calls to for `#pragma omp parallel`.
"""

import ctypes
import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from bnncc.runtime import abi
from bnncc.runtime.errors import OptionError

MOST_THREADS = 64
_LIBRARY = "libgomp.so.1"


class ThreadsWarning(UserWarning):
    """Several threads were asked for and one runs."""


@dataclass(frozen=True, eq=False)
class Team:
    """The functions that run a library on several threads, by address, how many threads, and in which process."""

    functions: tuple[int, ...]
    threads: int
    process: int

    def count(self) -> int:
        """How many threads this process has for it: one after a fork, in which libgomp's threads are not, although it
        waits for them. C forks too and calls no hook of Python, so the process is looked at."""
        return self.threads if os.getpid() == self.process else 1

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
    functions, process = _functions()
    if process != os.getpid() or not functions:
        why = f"{_LIBRARY} is not on this machine; install it (Debian, Ubuntu, Raspberry Pi OS: apt install libgomp1)"
        if functions:
            why = f"this process was forked after {_LIBRARY} was loaded; load it in a process of its own (spawn)"
        warnings.warn(f"{threads} threads were asked for and one runs: {why}", ThreadsWarning, stacklevel=5)
        return None
    return Team(functions, threads, process)


@functools.cache
def _functions() -> tuple[tuple[int, ...], int]:
    """Addresses of what `bnncc_run_threads` wants, nothing where libgomp is missing; and the process that libgomp's
    threads can be used in, 0 for one that is not there any more."""
    process = 0 if _is_loaded() and _was_forked() else os.getpid()
    try:
        library = ctypes.CDLL(_LIBRARY)
        found = {
            abi.Team.GOMP_PARALLEL: library.GOMP_parallel,
            abi.Team.OMP_GET_THREAD_NUM: library.omp_get_thread_num,
            abi.Team.SCHED_YIELD: ctypes.CDLL(None).sched_yield,
        }
    except (OSError, AttributeError):
        return (), process
    return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for _, function in sorted(found.items())), process


def _is_loaded() -> bool:
    """Whether something else has loaded libgomp, and may have used it."""
    try:
        ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _was_forked() -> bool:
    """Whether this process runs the program that its parent ran (the kernel's PF_FORKNOEXEC)."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(fields[6]) & 0x40)
