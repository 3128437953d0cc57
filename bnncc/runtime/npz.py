"""Tensors in .npz files, keyed by name. Reading checks everything against what is expected before it takes memory."""

import contextlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bnncc.runtime import atomic
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Tensor
from bnncc.runtime.errors import InputError

# An array of this name may accompany the inputs; commands that need labels read it, the others pass over it.
LABELS = "labels"
MOST_ARRAYS = 64
MOST_BYTES = 1 << 30


def read(path: str | os.PathLike[str], tensors: Sequence[Tensor]) -> dict[str, Array]:
    """The arrays of `tensors` by name, each of exactly the shape and dtype it says. Nothing is ever unpickled.

    Raises:
        InputError: the file cannot be read or is damaged; a name is missing or unknown; a wrong shape or dtype.
    """
    with _opened(path) as archive:
        found = {name.removesuffix(".npy") for name in archive.namelist()}
        names = {tensor.name for tensor in tensors}
        if not names <= found or not found <= names | {LABELS}:
            shown = ", ".join(sorted(map(ascii, found))[:8])[:200] or "none"
            raise InputError(
                f"{path}: found arrays {shown}, allowed are exactly {', '.join(sorted(map(ascii, names)))}; "
                "save them by name with numpy.savez"
            )
        return {tensor.name: _read_one(archive, tensor.name, str(path), tensor) for tensor in tensors}


def read_any(path: str | os.PathLike[str]) -> dict[str, Array]:
    """All arrays of numbers by name, of whatever shapes, up to MOST_ARRAYS and MOST_BYTES. Nothing is ever unpickled.

    Raises:
        InputError: the file cannot be read or is damaged, or holds more than that, or something else than numbers.
    """
    with _opened(path) as archive:
        names = archive.namelist()
        size = sum(entry.file_size for entry in archive.infolist())
        if len(names) > MOST_ARRAYS or len(set(names)) != len(names) or size > MOST_BYTES:
            raise InputError(
                f"{path}: found {len(names)} arrays of {size} bytes, allowed are {MOST_ARRAYS} of different names and "
                f"{MOST_BYTES} bytes; give fewer samples"
            )
        return {name.removesuffix(".npy"): _read_one(archive, name.removesuffix(".npy"), str(path)) for name in names}


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever goes wrong while it is read is an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; give a .npz file") from error
    except Exception as error:  # zipfile, zlib, lzma and numpy's header parser have no base in common
        message = " ".join(ascii(str(error))[1:-1].split())[:120] or type(error).__name__
        raise InputError(f"{path}: is not a whole .npz file ({message}); save it again with numpy.savez") from error


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, whole or not at all. Unlike numpy.savez it takes every name.

    Raises:
        OptionError: the file cannot be written there.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    atomic.write(path, buffer.getvalue())


def _read_one(archive: zipfile.ZipFile, name: str, where: str, wanted: Tensor | None = None) -> Array:
    """Header first: an array of another size than `wanted`, or than the file announces, is refused before its data is
    unpacked."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"array format version {version}")
        with warnings.catch_warnings():  # of headers by Python 2
            warnings.simplefilter("ignore")
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = read_header(file)
        if wanted and (shape != wanted.shape or dtype != np.dtype(wanted.dtype)):
            raise InputError(
                f"{where}: array {name!a}: found {dtype} {list(shape)}, allowed is {wanted.dtype} "
                f"{list(wanted.shape)}; convert or reshape it, or compile with another --shape"
            )
        if dtype.kind not in "biuf":
            raise InputError(f"{where}: array {name!a}: found {dtype}, allowed are numbers; convert it")
        size = math.prod(shape) * dtype.itemsize
        if size > archive.getinfo(f"{name}.npy").file_size:
            raise ValueError(f"array {name!a} announces {size} bytes")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"array {name!a} holds {len(data)} bytes, {size} were announced")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
