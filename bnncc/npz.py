"""Tensors in .npz files, keyed by name. Reading checks everything against what is expected before it takes memory."""

import io
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from bnncc import atomic
from bnncc.artifact import Tensor
from bnncc.errors import InputError
from bnncc.runtime import Array

# An array of this name may accompany the inputs; commands that need labels read it, the others pass over it.
LABELS = "labels"


def read(path: str | os.PathLike[str], tensors: Sequence[Tensor]) -> dict[str, Array]:
    """The arrays of `tensors` by name, each of exactly the shape and dtype it says. Nothing is ever unpickled.

    Raises:
        InputError: the file cannot be read or is damaged; a name is missing or unknown; a wrong shape or dtype.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name.removesuffix(".npy") for name in archive.namelist()}
            names = {tensor.name for tensor in tensors}
            if not names <= found or not found <= names | {LABELS}:
                shown = ", ".join(sorted(map(ascii, found))[:8])[:200] or "none"
                raise InputError(
                    f"{path}: found arrays {shown}, allowed are exactly {', '.join(sorted(map(ascii, names)))}; "
                    "save them by name with numpy.savez"
                )
            return {tensor.name: _read_one(archive, tensor, str(path)) for tensor in tensors}
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


def _read_one(archive: zipfile.ZipFile, tensor: Tensor, where: str) -> Array:
    """Header first: an array of another size is refused before its data is unpacked."""
    with archive.open(f"{tensor.name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"array format version {version}")
        with warnings.catch_warnings():  # of headers by Python 2
            warnings.simplefilter("ignore")
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = read_header(file)
        if shape != tensor.shape or dtype != np.dtype(tensor.dtype):
            raise InputError(
                f"{where}: array {tensor.name!a}: found {dtype} {list(shape)}, allowed is {tensor.dtype} "
                f"{list(tensor.shape)}; convert or reshape it, or compile with another --shape"
            )
        data = file.read(tensor.nbytes + 1)
    if len(data) != tensor.nbytes:
        raise ValueError(f"array {tensor.name!a} holds {len(data)} bytes, {tensor.nbytes} were announced")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
