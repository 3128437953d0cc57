"""Tensors in .npz files: damaged ones are refused in one line."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnncc.runtime import npz
from bnncc.runtime.artifact import Tensor
from bnncc.runtime.errors import InputError

X = np.arange(6, dtype=np.float32).reshape(2, 3)
TENSORS = (Tensor("x", (2, 3), "float32"),)


@pytest.mark.parametrize("name", ["x", "file", "scope/layer:0", "arr_0", "self"])
def test_round_trip_of_any_name(tmp_path: Path, name: str) -> None:
    scalar = np.array(5, np.int64)
    npz.write(tmp_path / "a.npz", {name: X, "scalar": scalar})
    read = npz.read(tmp_path / "a.npz", (Tensor(name, (2, 3), "float32"), Tensor("scalar", (), "int64")))
    np.testing.assert_array_equal(read[name], X)
    assert read["scalar"] == 5
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file[name], X)


def test_a_huge_array_is_refused_by_its_header(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
    with pytest.raises(InputError, match=r"found float32 \[1099511627776\], allowed is float32 \[2, 3\]"):
        npz.read(tmp_path / "a.npz", TENSORS)


def test_pickles_stay_shut(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[print] * 3] * 2))
    with pytest.raises(InputError, match="found object"):
        npz.read(tmp_path / "a.npz", TENSORS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers(tmp_path: Path, data: st.DataObject) -> None:
    content = io.BytesIO()
    np.save(content, X)
    array = bytearray(content.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 127))
        array[place : place + 1] = data.draw(st.sampled_from([b"(", b"'", b"[", b"\n ", b"L", b"\\", b"\x00", b"9"]))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", bytes(array))
    with contextlib.suppress(InputError):
        assert npz.read(tmp_path / "a.npz", TENSORS)["x"].shape == (2, 3)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_zips(tmp_path: Path, data: st.DataObject) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=X)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.npz").write_bytes(content)
    with contextlib.suppress(InputError):
        np.testing.assert_array_equal(npz.read(tmp_path / "a.npz", TENSORS)["x"], X)
