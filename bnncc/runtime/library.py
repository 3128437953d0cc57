"""A shared library from memory into this process, and out of it again when nobody can be inside."""

import _ctypes
import contextlib
import ctypes
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from bnncc.runtime.errors import ArtifactError


def load(content: bytes, where: str) -> ctypes.CDLL:
    """Load a library. Whoever holds it, or a function of it, keeps it loaded; so does the end of the interpreter, at
    which threads may be inside.

    Raises:
        ArtifactError: it is none, or nothing can be loaded in this process.
    """
    reasons = []
    # In memory no one else can change it, and nothing is left behind. Where a sandbox has no memfd or no /proc: a file.
    for place in (_in_memory, _in_folder):
        try:
            with place(content) as path:
                loaded = ctypes.CDLL(path)
        except OSError as error:
            reasons.append(_one_line(error))
            continue
        weakref.finalize(loaded, _ctypes.dlclose, loaded._handle).atexit = False
        return loaded
    raise ArtifactError(
        f"{where}: the library cannot be loaded ({reasons[0]}; {reasons[1]}); compile the model again, and where the "
        "service is locked up allow memfd_create with /proc/self/fd, or a TMPDIR that code may be loaded from"
    )


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("bnncc", os.MFD_CLOEXEC)
    try:
        _write(descriptor, content)
        yield f"/proc/self/fd{_told_apart(os.fstat(descriptor).st_ino)}/{descriptor}"
    finally:
        os.close(descriptor)  # what is mapped stays


def _told_apart(number: int) -> str:
    """`number` as steps of a path that lead nowhere. dlopen knows a library by its path before it looks at the file,
    and descriptors are used again: the number of the file is its own for as long as it is mapped."""
    return "".join("/." if number >> bit & 1 else "/" for bit in range(number.bit_length()))


@contextlib.contextmanager
def _in_folder(content: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bnncc") as folder:  # which nobody else can enter
        path = Path(folder) / "model.so"
        with path.open("wb") as file:
            _write(file.fileno(), content)
        yield str(path)


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()[:160]
