"""Images from folders and archives: labels, splits, the cache, and what is refused."""

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bnncc.runtime.errors import InputError, OptionError
from bnncc.train import data, images, tar
from bnncc.train.images import Labelled

Pixels = npt.NDArray[np.uint8]


def png(seed: int, width: int = 6, height: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(seed: int, width: int = 6, height: int = 6) -> Pixels:
    """[H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SPLIT = {
    "train/cat/1.png": png(0),
    "train/cat/2.png": png(1),
    "train/ant/1.png": png(2),
    "test/ant/1.png": png(3),
    "test/cat/1.png": png(4),
}
FLAT = {f"{name}/{i}.png": png(10 * i + len(name)) for i in range(6) for name in ("cat", "mouse")}


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def archive(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def equal(a: Labelled, b: Labelled) -> bool:
    arrays = (a.images, b.images), (a.labels, b.labels), (a.test, b.test)
    return a.classes == b.classes and all(np.array_equal(x, y) for x, y in arrays)


def test_folders_and_archives_are_read_alike(tmp_path: Path) -> None:
    found = images.read(folder(tmp_path / "f", {**SPLIT, "README.md": b"?", ".git/cat/1.png": b"?"}), None, None)
    assert found.classes == ("ant", "cat")
    assert found.labels.tolist() == [0, 1, 0, 1, 1]
    assert found.test.tolist() == [True, True, False, False, False]
    assert np.array_equal(found.images[0], pixels(3).transpose(2, 0, 1))
    for mode, suffix in (("w", "tar"), ("w:gz", "tgz"), ("w:bz2", "tbz"), ("w:xz", "txz")):
        backwards = dict(reversed([(f"deeper/{name}", content) for name, content in SPLIT.items()]))
        assert equal(images.read(archive(tmp_path / f"a.{suffix}", backwards, mode), None, None), found)


def test_the_cache_holds_what_was_decoded_until_a_file_changes(tmp_path: Path) -> None:
    source, cache = folder(tmp_path / "f", SPLIT), tmp_path / "cache"
    told: list[int] = []
    first = images.read(source, None, cache, lambda stage, done, total: told.append(done))
    again = images.read(source, None, cache, lambda stage, done, total: told.append(done))
    assert equal(first, again)
    assert told == [1, 2, 3, 4, 5]
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-40])  # damaged: decoded anew
    assert equal(images.read(source, None, cache), first)
    folder(source, {"test/cat/1.png": png(99)})
    changed = images.read(source, None, cache)
    assert not equal(changed, first)
    assert len(list(cache.iterdir())) == 2


def test_cifar_in_its_binary_version(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = {
        name: rng.integers(0, 256, (4, images.RECORD), dtype=np.uint8) for name in ("data_batch_1", "test_batch")
    }
    for each in records.values():
        each[:, 0] %= 10
    files = {f"cifar-10-batches-bin/{name}.bin": each.tobytes() for name, each in records.items()}
    found = images.read(archive(tmp_path / "c.tgz", {**files, "x/batches.meta.txt": b"airplane"}, "w:gz"), None, None)
    assert found.images.shape == (8, 3, 32, 32)
    assert found.test.tolist() == [False] * 4 + [True] * 4
    assert found.labels.tolist() == [*records["data_batch_1"][:, 0], *records["test_batch"][:, 0]]
    assert np.array_equal(found.images[4].ravel(), records["test_batch"][0, 1:])
    folder(tmp_path, {name: content[:-1] for name, content in files.items()})
    with pytest.raises(InputError, match=r"has 12291 bytes, allowed are whole records of 3073"):
        images.read(tmp_path / "cifar-10-batches-bin", None, None)


def test_sizes(tmp_path: Path) -> None:
    source = folder(tmp_path, {"a/1.png": png(0), "b/2.png": png(1, 12, 9)})
    with pytest.raises(InputError, match=r"b/2.png: is 12x9, the first image is 6x6; give --size"):
        images.read(source, None, None)
    assert images.read(source, 5, None).images.shape == (2, 3, 5, 5)


def test_a_part_is_held_out_by_the_seed(tmp_path: Path) -> None:
    source = str(folder(tmp_path, FLAT))
    one, two, three = (data.read(source, held_out=0.25, split_seed=seed) for seed in (0, 0, 1))
    assert (len(one.train), len(one.test)) == (9, 3)
    assert one.fingerprint() == two.fingerprint() != three.fingerprint()
    x = one.normalised(one.train.images)
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-2
    with pytest.raises(OptionError, match=r"held_out is 1\.5"):
        data.read(source, held_out=1.5)


def test_the_digits_are_split_in_halves() -> None:
    found = data.read("digits")
    assert (len(found.train), len(found.test), found.shape) == (899, 898, (1, 8, 8))
    assert not {i.numpy().tobytes() for i in found.train.images} & {i.numpy().tobytes() for i in found.test.images}


def hostile_header(path: Path) -> Path:
    """A long-name header that announces 1 TiB, packed."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    path.write_bytes(lzma.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(20_000)))
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-90])
    return path


def linked(path: Path) -> Path:
    """Links alone."""
    with tarfile.open(path, "w") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"a/{kind!r}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "there is no such file or folder"),
        (lambda p: archive(p, {"../a/1.png": png(0)}), r"\.\./a/1.png: leads out of the archive"),
        (lambda p: archive(p, {"/a/1.png": png(0)}), r"/a/1.png: leads out of the archive"),
        (lambda p: archive(p, {"a/1.png": b"\x89PNG"}), r"a/1.png: is no image that can be read"),
        (lambda p: archive(p, {"1.png": png(0), "2.png": png(0)}), "1.png: is in no folder that names its class"),
        (lambda p: archive(p, {"a/1.png": png(0), "a/2.png": png(0)}), "found 1 class, allowed are 2"),
        (lambda p: archive(p, {**SPLIT, "ant/5.png": png(5)}), "some images are in train/ or test/ and some in"),
        (lambda p: archive(p, {"a/1.txt": b""}), "found 0 images, allowed are 2 and more"),
        (linked, "found 0 images"),
        (hostile_header, r"has an entry of \d+ bytes, allowed are 67108864"),
        (lambda p: folder(p.parent, {p.name: b"hello"}) / p.name, "is not a whole tar file"),
        (lambda p: cut(archive(p, SPLIT)), "is not a whole tar file"),
    ],
)  # fmt: skip
def test_refusals(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        images.read(make(tmp_path / "images"), None, None)
    assert "\n" not in str(caught.value)


def test_bounds_hold_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = archive(tmp_path / "a.tar", {"a/1.png": bytes(5000)}, "w")
    with pytest.raises(InputError, match=r"a/1.png: has 5000 bytes, allowed are 4999"):
        list(tar.files(source, 4999))
    monkeypatch.setattr(images, "MOST_PIXELS", 35)
    with pytest.raises(InputError, match=r"\(6x6 pixels\)"):
        images.read(folder(tmp_path / "f", SPLIT), None, None)
    monkeypatch.undo()
    monkeypatch.setattr(images, "MOST_BYTES", 300)
    with pytest.raises(InputError, match=r"holds more than allowed, \d+ images and 300 bytes"):
        images.read(tmp_path / "f", None, None)
    monkeypatch.setattr(tar, "MOST_UNPACKED", 4000)
    with pytest.raises(InputError, match="unpacks to more than 4000 bytes"):
        list(tar.files(archive(tmp_path / "b.tgz", {f"a/{i}.png": bytes(3000) for i in range(3)}, "w:gz"), 5000))
