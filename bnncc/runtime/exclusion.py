"""One thread at a time, in a process that may be forked at any moment.

A fork copies a held lock and not the thread that would give it back: whoever takes it in the child waits for ever.
Python's at-fork hooks do not help where C forks (uWSGI), so a process is known by its number.
"""

import os
import threading
from contextlib import AbstractContextManager


class Exclusion:
    """`with exclusion.here():` one thread of this process at a time. A thread that is inside may enter again, as a
    signal handler does."""

    def __init__(self) -> None:
        self._locks: dict[int, AbstractContextManager[bool]] = {}

    def here(self) -> AbstractContextManager[bool]:
        """The lock of this process; one that was forked has its own, which is free."""
        process = os.getpid()
        return self._locks.get(process) or self._locks.setdefault(process, threading.RLock())
