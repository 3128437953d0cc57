"""Labelled images from a folder or a tar file, decoded once to one uint8 array, which is cached.

What lies there may be one of

    CLASS/NAME.png                              a class a folder, at any depth; some of it is held out
    train/CLASS/NAME.png, test/CLASS/NAME.png   split already; "val", "valid" and "validation" are "test", too
    data_batch_1.bin, ..., test_batch.bin       CIFAR-10's binary version: records of a label and 3x32x32 bytes

An archive is read from front to back and never unpacked to disk; names in it only say classes. Sizes are bounded before
anything is decoded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from bnncc.progress import Progress, silent
from bnncc.runtime import npz
from bnncc.runtime.array import Array
from bnncc.runtime.errors import BnnccError, InputError, OptionError, printable
from bnncc.train import tar

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
HELD_OUT = ("test", "val", "valid", "validation")
MOST_IMAGES = 2_000_000
MOST_CLASSES = 100_000
MOST_FILE = 64 << 20
MOST_PIXELS = 1 << 26
MOST_BYTES = npz.MOST_BYTES - (64 << 20)  # of all images decoded
MOST_KEPT = 8  # entries of the cache

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Labelled:
    """images uint8 [N, 3, H, W], labels int64 [N], test bool [N]: held out by the source itself; classes: their names.

    split: whether the source has such a part; else `test` is False throughout.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    test: npt.NDArray[np.bool_]
    classes: tuple[str, ...]

    @property
    def split(self) -> bool:
        return bool(self.test.any())


def read(source: Path, size: int | None, cache: Path | None, progress: Progress = silent) -> Labelled:
    """All images, by the order of their names. Needs Pillow, but for the binary version and what is in the cache.

    size    the shorter side is resized to it and the middle square cut out; None: images are of one size already
    cache   a folder for the decoded images, or None; a copy there belongs to exactly these files, by size and time

    Raises:
        InputError: nothing readable there, more than the bounds, images of several sizes and no `size`.
        OptionError: Pillow is not installed.
    """
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder; allowed are a folder of images and a tar file")
    entry = cache / f"{_key(source, size)}.npz" if cache else None
    if entry and entry.is_file():
        found = _kept(entry)
        if found:
            return found
    labelled = _decode(source, size, progress)
    if entry:
        _keep(entry, labelled)
    return labelled


def _decode(source: Path, size: int | None, progress: Progress) -> Labelled:
    files = _folder(source) if source.is_dir() else tar.files(source, MOST_FILE)
    decoded: list[tuple[str, npt.NDArray[np.uint8]]] = []
    binary: dict[str, bytes] = {}
    held = 0
    for path, content in files:
        if path.suffix.lower() == ".bin":
            binary[path.name] = content
            held += len(content)
        elif path.suffix.lower() in SUFFIXES:
            image = _image(f"{source}: {printable(str(path))}", content, size)
            if decoded and image.shape != decoded[0][1].shape:
                raise InputError(
                    f"{source}: {printable(str(path))}: is {image.shape[2]}x{image.shape[1]}, the first image is "
                    f"{decoded[0][1].shape[2]}x{decoded[0][1].shape[1]}; give --size"
                )
            decoded.append((str(path), image))
            held += image.nbytes
            progress(f"reading {source.name}", len(decoded), 0)
        if held > MOST_BYTES or len(decoded) > MOST_IMAGES:
            raise InputError(
                f"{source}: holds more than allowed, {MOST_IMAGES} images and {MOST_BYTES} bytes decoded; give a "
                f"smaller --size or fewer images"
            )
    if binary and not decoded:
        return _cifar10(source, binary)
    if len(decoded) < 2:
        raise InputError(f"{source}: found {len(decoded)} images, allowed are 2 and more ({', '.join(SUFFIXES)})")
    decoded.sort(key=lambda pair: pair[0])
    names, tests = zip(*(_label(source, PurePosixPath(path)) for path, _ in decoded), strict=True)
    classes = tuple(sorted(set(names)))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(f"{source}: found {len(classes)} class, allowed are 2 to {MOST_CLASSES}: one folder each")
    if None in tests and len(set(tests)) > 1:
        raise InputError(f"{source}: some images are in train/ or test/ and some in neither; move all, or none")
    number = {name: index for index, name in enumerate(classes)}
    return Labelled(
        np.stack([image for _, image in decoded]),
        np.array([number[name] for name in names], np.int64),
        np.array([bool(test) for test in tests]),
        classes,
    )


def _label(source: Path, path: PurePosixPath) -> tuple[str, bool | None]:
    """Class, and whether the image is held out; None where its folders do not say."""
    folders = path.parts[:-1]
    if not folders or folders[-1] in ("train", *HELD_OUT):
        raise InputError(f"{source}: {printable(str(path))}: is in no folder that names its class; put it in one")
    above = folders[-2] if len(folders) > 1 else ""
    return folders[-1], True if above in HELD_OUT else False if above == "train" else None


def _cifar10(source: Path, files: dict[str, bytes]) -> Labelled:
    names = [name for name in sorted(files) if name.startswith("data_batch_")] + ["test_batch.bin"]
    if len(names) < 2 or "test_batch.bin" not in files:
        raise InputError(
            f"{source}: found {sorted(files)[:8]}, allowed are CIFAR-10's data_batch_N.bin, test_batch.bin"
        )
    for name in names:
        if not files[name] or len(files[name]) % RECORD:
            raise InputError(f"{source}: {name}: has {len(files[name])} bytes, allowed are whole records of {RECORD}")
    parts = [np.frombuffer(files[name], np.uint8).reshape(-1, RECORD) for name in names]
    records = np.concatenate(parts)
    if records[:, 0].max() >= len(CIFAR10):
        raise InputError(f"{source}: found label {records[:, 0].max()}, allowed are 0 to {len(CIFAR10) - 1}")
    return Labelled(
        np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32),
        records[:, 0].astype(np.int64),
        np.arange(len(records)) >= len(records) - len(parts[-1]),
        CIFAR10,
    )


def _folder(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path in _paths(source):
        if path.stat().st_size > MOST_FILE:
            raise InputError(f"{path}: has {path.stat().st_size} bytes, allowed are {MOST_FILE}; remove it")
        yield PurePosixPath(path.relative_to(source).as_posix()), path.read_bytes()


def _paths(source: Path) -> list[Path]:
    """Files that may be ours, in order; links to other folders are not followed."""
    found = []
    for folder, inner, names in os.walk(source):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in (".bin", *SUFFIXES)]
        if len(found) > MOST_IMAGES:
            raise InputError(f"{source}: found more than {MOST_IMAGES} images, which is what is allowed")
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _image(where: str, content: bytes, size: int | None) -> npt.NDArray[np.uint8]:
    """uint8 [3, H, W]."""
    try:
        from PIL import Image
    except ImportError:
        raise OptionError("images: Pillow is not installed; pip install 'bnncc[train]'") from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width}x{height} pixels")
            image = opened.convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever they like
        message = " ".join(ascii(str(error))[1:-1].split())[:120]
        raise InputError(f"{where}: is no image that can be read ({message}); remove it") from error
    if size:
        scale = size / min(image.size)
        wide, high = (max(size, round(extent * scale)) for extent in image.size)
        if wide * high > MOST_PIXELS:
            raise InputError(f"{where}: is {width}x{height}, too long to be resized; remove it")
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def _key(source: Path, size: int | None) -> str:
    """64 hexadecimal digits: of every file's name, size and time, so that what changed is decoded anew."""
    paths = _paths(source) if source.is_dir() else [source]
    states = [(path.relative_to(source).as_posix(), path.stat()) for path in paths]
    listed = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return hashlib.sha256(json.dumps([1, str(source.resolve()), size, listed]).encode()).hexdigest()


def _keep(entry: Path, labelled: Labelled) -> None:
    """A folder that cannot be written is no error: images are only decoded again the next time."""
    names = np.frombuffer(json.dumps(labelled.classes).encode(), np.uint8)
    arrays: dict[str, Array] = {
        "images": labelled.images,
        "labels": labelled.labels,
        "test": labelled.test,
        "classes": names,
    }
    try:
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        npz.write(entry, arrays)
        kept = sorted(entry.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MOST_KEPT]:
            path.unlink(missing_ok=True)
    except (OSError, BnnccError):
        return


def _kept(entry: Path) -> Labelled | None:
    """The entry, or None where it is damaged."""
    try:
        arrays = npz.read_any(entry)
        classes = json.loads(arrays["classes"].tobytes())
        found = Labelled(arrays["images"], arrays["labels"], arrays["test"], tuple(map(str, classes)))
    except (InputError, KeyError, ValueError, TypeError):
        return None
    samples = len(found.images) if found.images.ndim == 4 else 0
    right = found.images.dtype == np.uint8 and found.labels.dtype == np.int64 and found.test.dtype == np.bool_
    right = right and found.labels.shape == found.test.shape == (samples,) and samples > 1
    return found if right and 0 <= found.labels.min() <= found.labels.max() < len(found.classes) else None
