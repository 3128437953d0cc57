"""The threads that this process has already, or would have for any other library: those of libgomp.

Nothing is installed for it: libgomp comes with GCC's runtime on nearly every Linux. Its functions are a stable ABI, the
one that GCC writes calls to for `#pragma omp parallel`.
"""

import ctypes
import functools
import warnings

from bnncc.errors import OptionError

MOST_THREADS = 64
_LIBRARY = "libgomp.so.1"
# In the order that the compiled library takes them, see bnncc/build/threads.py.
_FUNCTIONS = ("GOMP_parallel", "omp_get_thread_num")


class ThreadsWarning(UserWarning):
    """Several threads were asked for and one runs."""


def pool(threads: int) -> tuple[int, ...] | None:
    """Addresses of the functions that run a library on `threads` threads; None for one thread, and, with a
    `ThreadsWarning`, where this machine has no libgomp.

    Raises:
        OptionError: no such number of threads.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise OptionError(f"threads {threads}: allowed are 1 to {MOST_THREADS}, best as many as there are cores")
    if threads == 1:
        return None
    found = _addresses()
    if not found:
        warnings.warn(
            f"{threads} threads were asked for and one runs: {_LIBRARY} is not on this machine; install it "
            "(Debian, Ubuntu, Raspberry Pi OS: apt install libgomp1)",
            ThreadsWarning,
            stacklevel=5,
        )
    return found


@functools.cache
def _addresses() -> tuple[int, ...] | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
        functions = [*(getattr(library, name) for name in _FUNCTIONS), ctypes.CDLL(None).sched_yield]
        return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    except (OSError, AttributeError):
        return None
