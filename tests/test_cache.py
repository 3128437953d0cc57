"""The cache of artifacts: found when nothing changed, and only then."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnncc import cache, targets
from bnncc.cache import default_folder  # the one that users have: tests have their own
from bnncc.kernels.pixel_schedule import PixelSchedule
from bnncc.kernels.schedule import Schedule
from bnncc.options import InputRange, Keep, Options, Quantize, Watch
from bnncc.runtime.errors import ModelError
from tests.runtime.test_artifact import sample

TARGET = targets.find("x86-avx2")
PLAIN = Options()


def test_the_key_holds_everything_that_decides() -> None:
    samples = {"x": np.zeros((2, 3), np.float32)}
    keys = {
        cache.key("net", b"model", TARGET, PLAIN, None),
        cache.key("other", b"model", TARGET, PLAIN, None),
        cache.key("net", b"model2", TARGET, PLAIN, None),
        cache.key("net", b"model", targets.find("x86"), PLAIN, None),
        cache.key("net", b"model", TARGET, Options(shapes={"x": (1, 3)}), None),
        cache.key("net", b"model", TARGET, PLAIN, {}),
        cache.key("net", b"model", TARGET, PLAIN, samples),
        cache.key("net", b"model", TARGET, PLAIN, {"x": np.ones((2, 3), np.float32)}),
        cache.key("net", b"model", TARGET, PLAIN, {"x": np.zeros((3, 2), np.float32)}),
    }
    assert len(keys) == 9
    assert cache.key("net", b"model", TARGET, Options(), samples) in keys


# Each field of Options: values that are not its default, each of which decides something else.
OTHER: dict[str, tuple[Any, ...]] = {
    "shapes": ({"x": (1, 3)}, {"x": (3, 1)}, {"y": (1, 3)}),
    "float_convs": (Watch(), Quantize({}), Quantize({0: InputRange(0.0, 1.0)}), Quantize({1: InputRange(0.0, 1.0)})),
    "schedules": ({"a task": Schedule()}, {"a task": PixelSchedule(2)}, {"a task": PixelSchedule(3)}),
    "peaks": (True,),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Options)])
def test_the_key_holds_every_option(field: str) -> None:
    options = [PLAIN, *(Options(**{field: value}) for value in OTHER[field])]  # a new option needs a line above alone
    assert len({cache.key("net", b"model", TARGET, each, None) for each in options}) == len(options)


def test_a_field_that_nobody_thought_of_decides_too() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later(Options):
        more: object = None

    assert cache.encoded(Later(more=1)) != cache.encoded(Later(more=2))
    with pytest.raises(TypeError, match="cannot be part of a cache's key"):
        cache.encoded(Later(more=lambda: 0))


def test_equal_values_and_only_those_are_encoded_alike() -> None:
    values: list[object] = [
        None, 0, 1, True, 1.0, "", "1", b"1", (), ((),), ("1",), ("1", ""), ("", "1"), {}, {"a": 1}, {"a": 1, "b": 2},
        (("a", 1),), Keep(), Watch(), Quantize({}), Quantize({0: InputRange(0, 1)}), Quantize({0: InputRange(0, 2)}),
        Quantize({1: InputRange(0, 1)}), np.zeros(2, np.float32), np.zeros(2, np.int32), np.zeros((2, 1), np.float32),
    ]  # fmt: skip
    assert len({cache.encoded(value) for value in values}) == len(values)
    assert cache.encoded({"a": 1, "b": 2}) == cache.encoded({"b": 2, "a": 1})


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


def test_an_entry_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time cannot be set; where it cannot be read either, there is none."""
    artifact = sample()
    cache.keep(tmp_path, "entry", artifact)

    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", denied)
    assert cache.find(tmp_path, "entry") == artifact
    monkeypatch.setattr(Path, "is_file", denied)
    assert cache.find(tmp_path, "entry") is None


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert default_folder() == Path("/there/bnncc")


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
        cache.compile(str(tmp_path / "none.onnx"), "x86", tmp_path, options=PLAIN)
