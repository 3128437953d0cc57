"""Artifacts that were compiled before, by what they were made of.

The key is a hash of everything that decides the result: the model's bytes, the target as data, the options, the data
given for calibration, bnncc's own source files and the versions of what it compiles with. So an entry is never out of
date, it is only found or not. Entries are checked like any other .bnn file when they are read; a damaged one is
compiled anew.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bnncc import targets
from bnncc.options import Options
from bnncc.progress import Progress, silent
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.errors import ArtifactError, BnnccError
from bnncc.targets.target import Target

COMPILERS = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "ziglang")
MOST_BYTES = 1 << 30  # of all entries; the ones not used for the longest time go first


def default_folder() -> Path | None:
    """~/.cache/bnncc, or where XDG_CACHE_HOME says; None for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnncc"
    except RuntimeError:
        return None


def compile(
    model: str,
    target: str,
    folder: Path,
    *,
    options: Options,
    calibrate: Mapping[str, Array] | None = None,
    progress: Progress = silent,
) -> tuple[Artifact, bool]:
    """As `bnncc.compiler.compile`, and whether the artifact was there already."""
    from bnncc import compiler

    path = Path(model)
    content = path.read_bytes() if path.is_file() else b""
    entry = ""
    if content and is_whole(content):
        entry = key(path.stem, content, targets.find(target), options, calibrate)
        found = find(folder, entry)
        if found is not None:
            return found, True
    artifact = compiler.compile(model, target, options=options, calibrate=calibrate, progress=progress)
    if entry:
        keep(folder, entry, artifact)
    return artifact, False


def key(name: str, model: bytes, target: Target, options: Options, samples: Mapping[str, Array] | None) -> str:
    """64 hexadecimal digits that stand for one compilation."""
    sources = [(path.name, path.read_bytes()) for path in sorted(set(_sources()))]
    compilers = [(package, version(package)) for package in COMPILERS]
    decides = (sources, compilers, name, model, target.name, target.llvm, options, samples)
    return hashlib.sha256(encoded(decides)).hexdigest()


def encoded(value: object) -> bytes:
    """Bytes that only an equal value has: numbers, text, arrays, and sequences, mappings and dataclasses of such.

    Raises:
        TypeError: something else, of which nobody knows what decides.
    """
    kind = type(value).__name__
    if value is None or isinstance(value, bool | int | float | str):
        parts = [repr(value).encode()]
    elif isinstance(value, bytes):
        parts = [value]
    elif isinstance(value, np.ndarray):
        parts = [str(value.dtype).encode(), repr(value.shape).encode(), np.ascontiguousarray(value).tobytes()]
    elif dataclasses.is_dataclass(value):
        parts = [encoded((field.name, getattr(value, field.name))) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        kind, parts = "mapping", sorted(encoded(item) for item in value.items())
    elif isinstance(value, list | tuple):
        kind, parts = "sequence", [encoded(item) for item in value]
    else:
        raise TypeError(f"{kind} {value!r:.80} cannot be part of a cache's key")
    # With its length before it, so that no two lists of parts read the same.
    return b"".join(len(part).to_bytes(8, "little") + part for part in (kind.encode(), *parts))


def is_whole(model: bytes) -> bool:
    """Whether the file surely holds all its weights: one that keeps some in other files names their `location`."""
    return b"location" not in model


def _sources() -> Iterable[Path]:
    """Every source file of the package, passes and targets too: they are links beside it, or were installed there."""
    folder = Path(__file__).parent
    yield from folder.rglob("*.py")
    for linked in ("passes", "targets"):  # rglob does not follow links
        yield from (folder / linked).glob("*.py")


def find(folder: Path, entry: str) -> Artifact | None:
    """The artifact kept under this key, if there is an undamaged one that may be read."""
    path = folder / f"{entry}.bnn"
    try:
        if not path.is_file():
            return None
        artifact = Artifact.load(path)
    except (OSError, ArtifactError):
        return None
    with contextlib.suppress(OSError):  # somebody else's, or on a file system that is only read
        os.utime(path)
    return artifact


def keep(folder: Path, entry: str, artifact: Artifact) -> None:
    """Keep an artifact. A folder that cannot be written is no error: the next compilation only takes longer."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        artifact.save(folder / f"{entry}.bnn")
        _make_room(folder)
    except (OSError, BnnccError):
        return


def _make_room(folder: Path) -> None:
    found = sorted(((path.stat(), path) for path in folder.glob("*.bnn")), key=lambda item: item[0].st_mtime)
    total = sum(status.st_size for status, _ in found)
    for status, path in found[:-1]:
        if total <= MOST_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= status.st_size
