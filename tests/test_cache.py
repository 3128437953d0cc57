"""The cache of artifacts: found when nothing changed, and only then."""

from pathlib import Path

import numpy as np
import pytest

from bnncc import cache, targets
from bnncc.runtime.errors import ModelError
from tests.runtime.test_artifact import sample

TARGET = targets.find("x86-avx2")


def test_the_key_holds_everything_that_decides() -> None:
    samples = {"x": np.zeros((2, 3), np.float32)}
    keys = {
        cache.key("net", b"model", TARGET, {}, None),
        cache.key("other", b"model", TARGET, {}, None),
        cache.key("net", b"model2", TARGET, {}, None),
        cache.key("net", b"model", targets.find("x86"), {}, None),
        cache.key("net", b"model", TARGET, {"x": (1, 3)}, None),
        cache.key("net", b"model", TARGET, {}, samples),
        cache.key("net", b"model", TARGET, {}, {"x": np.ones((2, 3), np.float32)}),
        cache.key("net", b"model", TARGET, {}, {"x": np.zeros((3, 2), np.float32)}),
    }
    assert len(keys) == 8
    assert cache.key("net", b"model", TARGET, {}, samples) in keys


def test_the_key_reads_passes_and_targets_too() -> None:
    names = {path.parent.name for path in cache._sources()}
    assert {"bnncc", "passes", "targets", "kernels"} <= names


def test_keep_and_find(tmp_path: Path) -> None:
    artifact = sample()
    assert cache.find(tmp_path / "new", "k") is None
    cache.keep(tmp_path / "new", "k", artifact)
    assert cache.find(tmp_path / "new", "k") == artifact


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    cache.keep(tmp_path, "k", sample())
    path = tmp_path / "k.bnn"
    path.write_bytes(path.read_bytes()[:-5])
    assert cache.find(tmp_path, "k") is None


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache.keep(tmp_path / "file" / "folder", "k", sample())


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        cache.keep(tmp_path, f"k{number}", sample())
    size = (tmp_path / "k0.bnn").stat().st_size
    monkeypatch.setattr(cache, "MOST_BYTES", 2 * size)
    assert cache.find(tmp_path, "k0") is not None  # used last
    cache.keep(tmp_path, "k3", sample())
    assert cache.find(tmp_path, "k3") is not None
    assert len(list(tmp_path.glob("*.bnn"))) == 2


def test_weights_in_other_files_are_not_cached() -> None:
    assert not cache.is_whole(b"...location...")


def test_a_missing_model_is_the_compilers_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx"):
        cache.compile(str(tmp_path / "none.onnx"), "x86", tmp_path, shapes={}, calibrate=None, progress=None)
