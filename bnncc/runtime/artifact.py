"""The .bnn file: a zip (stored, so that it can be mapped) of `model.so` and `manifest.json`, and nothing else.

The manifest says what the library is: tensors, target, CPU features, arena bytes, every layer, every pass, and the
SHA-256 of the library and of the source model. `Artifact.load` checks all of it before anything is used, because the
library is machine code: names and sizes of the parts, CRC, each manifest field with its type and bounds, the hash.
The check finds damage; it does not prove who made the file. Load only artifacts you would also run as a program.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import types
import typing
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bnncc.runtime import atomic
from bnncc.runtime.errors import ArtifactError

FORMAT = 1
LIBRARY = "model.so"
MANIFEST = "manifest.json"
LIBRARY_LIMIT = 1 << 30
MANIFEST_LIMIT = 16 << 20
ARENA_LIMIT = 1 << 34
TENSOR_LIMIT = 1 << 31
DTYPE_BYTES = types.MappingProxyType(
    {"float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8,
     "uint64": 8, "bool": 1}
)  # fmt: skip


# A name as the source model has it, which may be any text; commands show it escaped.
AnyText = typing.Annotated[str, "any text"]


@dataclass(frozen=True)
class Tensor:
    """An input or output: C-contiguous, in the layout of the source model. `dtype` is numpy's name."""

    name: AnyText
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Layer:
    """One kernel call; its place in `Manifest.layers` is its step number in the library.

    `why_not` is "" for a binary layer and otherwise the reason it is not one; `fused` names the source operators the
    kernel does besides its own. `macs` counts multiply-accumulates of the source operator; bytes are as executed.
    """

    name: str
    kind: str
    binary: bool
    why_not: str
    fused: tuple[str, ...]
    macs: int
    bytes_in: int
    bytes_out: int
    bytes_weights: int
    output_shape: tuple[int, ...]
    kernel: str


@dataclass(frozen=True)
class PassRecord:
    """What one pass of the pipeline did: how long, how many rewrites, and what it refused and why."""

    name: str
    seconds: float
    rewrites: int
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """What 8-bit convolutions changed on the samples they were calibrated on: the same network with them and without.

    target: what both ran as, on the machine that compiled. layers: convolutions that became 8-bit. largest_difference:
    between outputs, relative to the largest magnitude of that output. agreement: share of the samples whose largest
    output is the same one; accuracy_*: share of those whose largest output is the label. None where the network does
    not classify, or no labels were given.
    """

    samples: int
    layers: int
    target: str
    largest_difference: float
    agreement: float | None
    accuracy_float: float | None
    accuracy_int8: float | None


@dataclass(frozen=True)
class Manifest:
    """What the library is and how it came about. `cpu_features` are the names /proc/cpuinfo uses; `calibration` is
    None where no data was given."""

    format: int
    name: str
    source_sha256: str
    target: str
    triple: str
    cpu_features: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arena_bytes: int
    layers: tuple[Layer, ...]
    passes: tuple[PassRecord, ...]
    calibration: Calibration | None
    versions: dict[str, str]
    library_sha256: str


@dataclass(frozen=True)
class Artifact:
    """A compiled network: its manifest and its shared library."""

    manifest: Manifest
    library: bytes

    def check(self, where: str = "artifact") -> None:
        """Check the manifest field by field and the library against its hash.

        Raises:
            ArtifactError: the first thing that is not as it must be.
        """
        if _manifest(_encoded(self.manifest), where) != self.manifest:
            raise ArtifactError(f"{where}: {MANIFEST} does not read back as it was written; compile the model again")
        if not 0 < len(self.library) <= LIBRARY_LIMIT:
            raise ArtifactError(
                f"{where}: {LIBRARY} has {len(self.library)} bytes, allowed are 1 to {LIBRARY_LIMIT}; "
                "compile the model again"
            )
        found = hashlib.sha256(self.library).hexdigest()
        if found != self.manifest.library_sha256:
            raise ArtifactError(
                f"{where}: {LIBRARY} has SHA-256 {found[:12]}.., {MANIFEST} says "
                f"{self.manifest.library_sha256[:12]}..; "
                "the file was changed or damaged: compile or copy it again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the .bnn file, whole or not at all.

        Raises:
            ArtifactError: this artifact is not one `load` would accept.
            OptionError: the file cannot be written there.
        """
        self.check(str(path))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
            for name, data in ((MANIFEST, _encoded(self.manifest)), (LIBRARY, self.library)):
                # A fixed date: the same artifact is the same bytes.
                file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        atomic.write(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check a .bnn file.

        Raises:
            ArtifactError: the file cannot be read, is damaged, or is of another format version.
        """
        where = str(path)
        try:
            with Path(path).open("rb") as file:
                artifact = cls(*_read(file, where))
        except OSError as error:
            raise ArtifactError(
                f"{where}: cannot be read: {error.strerror or error}; give a .bnn file of bnncc compile"
            ) from error
        artifact.check(where)
        return artifact


def _read(file: typing.BinaryIO, where: str) -> tuple[Manifest, bytes]:
    """Take the two parts out of the zip, sizes first. zipfile raises a dozen kinds of exception on damaged input."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            names = sorted(part.filename for part in parts)
            if names != sorted((LIBRARY, MANIFEST)):
                shown = ", ".join(names[:4]).encode("ascii", "backslashreplace").decode()
                raise ArtifactError(
                    f"{where}: holds {len(names)} parts ({shown[:120]!r}), allowed are {MANIFEST} and {LIBRARY}; "
                    "give a .bnn file of bnncc compile"
                )
            data = {}
            for part, limit in ((archive.getinfo(MANIFEST), MANIFEST_LIMIT), (archive.getinfo(LIBRARY), LIBRARY_LIMIT)):
                if (
                    part.compress_type != zipfile.ZIP_STORED
                    or part.file_size != part.compress_size
                    or part.file_size > limit
                ):
                    raise ArtifactError(
                        f"{where}: {part.filename} has {part.file_size} bytes ({part.compress_size} stored), "
                        f"allowed are {limit} uncompressed; compile the model again"
                    )
                data[part.filename] = archive.read(part)
    except ArtifactError:
        raise
    except (
        zipfile.BadZipFile,
        ValueError,
        RuntimeError,
        LookupError,
        EOFError,
        OverflowError,
        MemoryError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno not in (None, 22):
            raise
        raise ArtifactError(
            f"{where}: is not a whole .bnn file ({_one_line(error)}); compile or copy it again"
        ) from error
    return _manifest(data[MANIFEST], where), data[LIBRARY]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()[:120] or type(error).__name__


def _encoded(manifest: Manifest) -> bytes:
    return json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _manifest(data: bytes, where: str) -> Manifest:
    """JSON bytes -> Manifest: format version first, then types, then bounds."""
    where = f"{where}: {MANIFEST}"
    if len(data) > MANIFEST_LIMIT:
        raise ArtifactError(f"{where}: has {len(data)} bytes, allowed are {MANIFEST_LIMIT}; compile the model again")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: is not JSON ({_one_line(error)}); compile or copy it again") from error
    if isinstance(value, dict) and type(value.get("format")) is int and value["format"] != FORMAT:
        raise ArtifactError(
            f"{where}: format version {str(value['format'])[:12]}, this bnncc reads version {FORMAT}; "
            "compile the model with this bnncc or install the one that wrote it"
        )
    manifest: Manifest = _decode(Manifest, value, where)
    _check_bounds(manifest, where)
    return manifest


def _decode(kind: Any, value: Any, where: str) -> Any:
    """One JSON value -> the annotated type; unknown and missing fields are errors."""

    def wrong(allowed: str) -> ArtifactError:
        found = ascii(value) if isinstance(value, str | int | float | None) else type(value).__name__
        return ArtifactError(f"{where}: found {found[:80]}, allowed is {allowed}; compile the model again")

    if dataclasses.is_dataclass(kind):
        make, hints = typing.cast(Any, kind), typing.get_type_hints(kind, include_extras=True)
        if not isinstance(value, dict):
            raise wrong("an object")
        if value.keys() != hints.keys():
            odd = ", ".join(ascii(name)[:40] for name in sorted(value.keys() ^ hints.keys())[:3])
            raise ArtifactError(f"{where}: fields missing or unknown: {odd}; compile the model again with this bnncc")
        return make(**{name: _decode(hint, value[name], f"{where}: {name}") for name, hint in hints.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # X | None
        return None if value is None else _decode(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise wrong("a list")
        return tuple(_decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong("an object")
        return {_decode(str, key, where): _decode(arguments[1], item, where) for key, item in value.items()}
    if kind == AnyText and not isinstance(value, str):
        raise wrong("text")
    # Printable text only: these strings end up in terminals and in one-line messages.
    if kind is str and not (isinstance(value, str) and value.isprintable()):
        raise wrong("printable text in one line")
    if kind is bool and not isinstance(value, bool):
        raise wrong("true or false")
    if kind is int and not (type(value) is int and 0 <= value < 1 << 62):
        raise wrong("a whole number from 0 to 2**62 - 1")
    if kind is float:
        if type(value) not in (int, float) or not 0 <= value < 1e18:
            raise wrong("a number from 0 to 1e18")
        return float(value)
    return value


def _check_bounds(manifest: Manifest, where: str) -> None:
    """What the types do not say: hashes, tensors that fit in memory, the arena."""
    for field in ("source_sha256", "library_sha256"):
        if not re.fullmatch("[0-9a-f]{64}", getattr(manifest, field)):
            raise ArtifactError(f"{where}: {field}: allowed are 64 hexadecimal digits; compile the model again")
    for role, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if not tensors or len({tensor.name for tensor in tensors}) != len(tensors):
            raise ArtifactError(
                f"{where}: {role}: allowed is at least one tensor, each with a name of its own; compile the model again"
            )
        for tensor in tensors:
            if tensor.dtype not in DTYPE_BYTES:
                raise ArtifactError(
                    f"{where}: {role}: {tensor.name!a}: found dtype {ascii(tensor.dtype)[:40]}, allowed are "
                    f"{', '.join(DTYPE_BYTES)}; compile the model again"
                )
            if len(tensor.shape) > 32 or 0 in tensor.shape or tensor.nbytes > TENSOR_LIMIT:
                raise ArtifactError(
                    f"{where}: {role}: {tensor.name!a}: found shape {str(tensor.shape)[:80]}, allowed are at most "
                    f"32 dimensions of at least 1 and {TENSOR_LIMIT} bytes; compile the model again"
                )
    if manifest.arena_bytes > ARENA_LIMIT:
        raise ArtifactError(
            f"{where}: arena_bytes: found {manifest.arena_bytes}, allowed are {ARENA_LIMIT}; "
            "compile with a smaller batch"
        )
