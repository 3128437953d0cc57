"""Files appear whole or not at all: whoever reads one never sees half of it, and a failed write leaves the old one."""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from bnncc.runtime.errors import OptionError


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to a new file beside `path`, flush it to disk, then rename it over `path`.

    A link is followed, and something that is no regular file (/dev/null, a pipe) is written to, not replaced.

    Raises:
        OptionError: the file cannot be written there.
    """
    target = Path(path).resolve()
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            target.write_bytes(data)
            return
        temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}.part")
        # Opened by hand, not by tempfile, so that the file gets the permissions of the user's umask.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OptionError(
            f"{path}: cannot be written: {error.strerror}; name a file in a folder you can write to"
        ) from error


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        OptionError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{path}: is no folder and cannot be made one: {error.strerror}; name another") from error
