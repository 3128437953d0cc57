"""Files in a tar archive, plain or compressed, one after the other, without unpacking it anywhere."""

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from bnncc.runtime.errors import InputError, printable

MOST_ENTRIES = 4_000_000
MOST_UNPACKED = 64 << 30  # bytes of the whole archive: a small file can be made that unpacks for ever
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))


def files(path: Path, most_bytes: int) -> Iterator[tuple[PurePosixPath, bytes]]:
    """(name, content) of regular files, in the archive's order; links, devices and hidden files are passed over.

    Raises:
        InputError: it is no tar file or a damaged one; a name that is absolute or climbs with ".."; a file of more than
            most_bytes, or more than the bounds above.
    """
    try:
        with _opened(path) as stream, tarfile.open(fileobj=_bounded(stream, path, most_bytes), mode="r:") as archive:
            for count, member in enumerate(iter(archive.next, None)):
                name = PurePosixPath(member.name)
                shown = f"{path}: {printable(member.name)[:200]}"
                if count >= MOST_ENTRIES:
                    raise InputError(f"{path}: has more than {MOST_ENTRIES} entries, which is what is allowed")
                if name.is_absolute() or ".." in name.parts:
                    raise InputError(f"{shown}: leads out of the archive; pack it with names below its own folder")
                if not member.isreg() or any(part.startswith(".") for part in name.parts):
                    continue
                if member.size > most_bytes:
                    raise InputError(f"{shown}: has {member.size} bytes, allowed are {most_bytes}; pack it without")
                file = archive.extractfile(member)
                content = file.read() if file else b""
                if len(content) != member.size:
                    raise EOFError(f"{member.name} is cut short")
                yield name, content
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; give a folder or a tar file") from error
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, ValueError, OverflowError) as error:
        message = " ".join(ascii(str(error))[1:-1].split())[:120]
        raise InputError(f"{path}: is not a whole tar file ({message}); give a folder or a tar file") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        for magic, opener in _OPENERS:
            if start.startswith(magic):
                with opener(file, "rb") as unpacked:
                    yield cast(IO[bytes], unpacked)
                return
        yield file


def _bounded(stream: IO[bytes], path: Path, most_bytes: int) -> IO[bytes]:
    return cast(IO[bytes], _Bounded(stream, path, most_bytes))


class _Bounded(io.RawIOBase):
    """Refuses to read much at once, as a header of a made-up size would ask for, and to go on for ever."""

    def __init__(self, stream: IO[bytes], path: Path, most_bytes: int) -> None:
        super().__init__()
        self._stream, self._path, self._most = stream, path, most_bytes

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._most + tarfile.RECORDSIZE:
            raise InputError(f"{self._path}: has an entry of {size} bytes, allowed are {self._most}; pack it without")
        if self._stream.tell() > MOST_UNPACKED:
            raise InputError(f"{self._path}: unpacks to more than {MOST_UNPACKED} bytes, which is what is allowed")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset > MOST_UNPACKED:
            raise InputError(f"{self._path}: unpacks to more than {MOST_UNPACKED} bytes, which is what is allowed")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
