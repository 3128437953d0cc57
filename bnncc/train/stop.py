"""Ctrl-C and SIGTERM end training after the step that runs, with all of it written down."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from bnncc.runtime.errors import BnnccError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BnnccError):
    """Training was told to stop, and can go on."""

    exit_code = 130


@contextlib.contextmanager
def requests() -> Iterator[threading.Event]:
    """An event that is set by the first signal; the next one does what it always did. Python hands signals to the main
    thread alone: elsewhere nothing sets the event."""
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        wanted.set()
        _restore()

    def _restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield wanted
    finally:
        _restore()
