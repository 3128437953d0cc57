"""The .bnn file: what is written is read back, and nothing else is ever accepted."""

import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnncc.runtime.artifact import ARENA_LIMIT, Artifact, Layer, Manifest, PassRecord, Tensor
from bnncc.runtime.errors import ArtifactError, OptionError

LIBRARY = bytes(range(256)) * 4


def sample() -> Artifact:
    """An artifact whose library is no library: enough for everything up to loading it."""
    layer = Layer(
        name="conv1", kind="xnor_conv2d", binary=True, why_not="", fused=("BatchNormalization", "Binarize"), macs=1000,
        bytes_in=64, bytes_out=32, bytes_weights=72, output_shape=(1, 8, 8, 16), kernel="xnor_conv2d_0",
    )  # fmt: skip
    return Artifact(
        Manifest(
            format=1,
            name="sample",
            source_sha256="0" * 64,
            target="x86",
            triple="x86_64-linux-gnu",
            cpu_features=("popcnt", "sse4_2"),
            inputs=(Tensor("x", (1, 3, 8, 8), "float32"),),
            outputs=(Tensor("y", (1, 10), "float32"), Tensor("scalar", (), "int64")),
            arena_bytes=4096,
            layers=(layer, dataclasses.replace(layer, name="fc", binary=False, why_not="input is not binarised")),
            passes=(PassRecord("bnncc.FoldScale", 0.25, 3, ("scale has 2 values <= 0",)),),
            calibration=None,
            versions={"bnncc": "0.1.0", "numpy": "2.4.6"},
            library_sha256=hashlib.sha256(LIBRARY).hexdigest(),
        ),
        LIBRARY,
    )


def zipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return buffer.getvalue()


def saved(path: Path) -> tuple[dict[str, Any], bytes]:
    sample().save(path)
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("manifest.json")), file.read("model.so")


def refused(path: Path) -> str:
    """The one-line message with which loading `path` fails."""
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def test_round_trip_is_equal_and_the_same_bytes(tmp_path: Path) -> None:
    sample().save(tmp_path / "a.bnn")
    assert Artifact.load(tmp_path / "a.bnn") == sample()
    Artifact.load(tmp_path / "a.bnn").save(tmp_path / "b.bnn")
    assert (tmp_path / "a.bnn").read_bytes() == (tmp_path / "b.bnn").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bnn", "b.bnn"]


def test_parts_are_stored_not_compressed(tmp_path: Path) -> None:
    sample().save(tmp_path / "a.bnn")
    with zipfile.ZipFile(tmp_path / "a.bnn") as file:
        assert [(part.filename, part.compress_type) for part in file.infolist()] == [
            ("manifest.json", zipfile.ZIP_STORED),
            ("model.so", zipfile.ZIP_STORED),
        ]


def test_save_to_a_missing_folder_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot be written"):
        sample().save(tmp_path / "missing" / "a.bnn")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_what_load_would_refuse(tmp_path: Path) -> None:
    good = sample()
    for bad in (
        dataclasses.replace(good, library=b""),
        dataclasses.replace(good, library=LIBRARY + b"x"),
        dataclasses.replace(good, manifest=dataclasses.replace(good.manifest, name="two\nlines")),
        dataclasses.replace(good, manifest=dataclasses.replace(good.manifest, arena_bytes=ARENA_LIMIT + 1)),
        dataclasses.replace(good, manifest=dataclasses.replace(good.manifest, inputs=good.manifest.outputs[:1] * 2)),
    ):
        with pytest.raises(ArtifactError):
            bad.save(tmp_path / "a.bnn")
    assert list(tmp_path.iterdir()) == []


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.bnn")
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"hello, I am not a zip", b"\x08\x07" * 500])
def test_other_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.bnn").write_bytes(data)
    assert "not a whole .bnn file" in refused(tmp_path / "a.bnn")


def test_exact_parts(tmp_path: Path) -> None:
    manifest, library = saved(tmp_path / "a.bnn")
    text = json.dumps(manifest).encode()
    for parts in (
        {"manifest.json": text},
        {"manifest.json": text, "model.so": library, "../../evil": b""},
        {"manifest.json": text, "other.so": library},
    ):
        (tmp_path / "a.bnn").write_bytes(zipped(parts))
        assert "allowed are manifest.json and model.so" in refused(tmp_path / "a.bnn")


def test_compressed_parts_are_refused_before_they_are_read(tmp_path: Path) -> None:
    manifest, _ = saved(tmp_path / "a.bnn")
    bomb = {"manifest.json": json.dumps(manifest).encode(), "model.so": bytes(1 << 20)}
    (tmp_path / "a.bnn").write_bytes(zipped(bomb, zipfile.ZIP_DEFLATED))
    assert "uncompressed" in refused(tmp_path / "a.bnn")


def test_changed_library(tmp_path: Path) -> None:
    manifest, library = saved(tmp_path / "a.bnn")
    parts = {"manifest.json": json.dumps(manifest).encode(), "model.so": library[:-1] + b"!"}
    (tmp_path / "a.bnn").write_bytes(zipped(parts))
    assert "SHA-256" in refused(tmp_path / "a.bnn")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("format",), 2, "format version 2, this bnncc reads version 1"),
        (("format",), "1", "found '1', allowed is a whole number"),
        (("name",), "bell\x07", "printable"),
        (("name",), 5, "printable"),
        (("source_sha256",), "abc", "64 hexadecimal digits"),
        (("inputs",), [], "at least one tensor"),
        (("inputs",), {}, "found dict, allowed is a list"),
        (("inputs", 0, "dtype"), "object", "allowed are float32"),
        (("inputs", 0, "shape"), [1, 0], "dimensions of at least 1"),
        (("inputs", 0, "shape"), [1, -1], "whole number from 0"),
        (("inputs", 0, "shape"), [1.0], "whole number"),
        (("inputs", 0, "shape"), [True], "whole number"),
        (("inputs", 0, "shape"), [1 << 20, 1 << 20], "bytes"),
        (("outputs", 1, "name"), "y", "a name of its own"),
        (("arena_bytes",), 1 << 60, "arena_bytes"),
        (("layers", 0, "binary"), 1, "true or false"),
        (("layers", 0, "macs"), -1, "whole number"),
        (("passes", 0, "seconds"), float("nan"), "a number from 0"),
        (("passes", 0, "seconds"), None, "a number from 0"),
        (("versions",), {"bnncc": 1}, "printable"),
    ],
)
def test_each_manifest_field(tmp_path: Path, place: tuple[str | int, ...], value: object, says: str) -> None:
    manifest, library = saved(tmp_path / "a.bnn")
    spot: Any = manifest
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = value
    (tmp_path / "a.bnn").write_bytes(zipped({"manifest.json": json.dumps(manifest).encode(), "model.so": library}))
    assert says in refused(tmp_path / "a.bnn")


def test_missing_and_unknown_fields(tmp_path: Path) -> None:
    manifest, library = saved(tmp_path / "a.bnn")
    for changed in ({**manifest, "extra": 1}, {key: manifest[key] for key in manifest if key != "layers"}):
        (tmp_path / "a.bnn").write_bytes(zipped({"manifest.json": json.dumps(changed).encode(), "model.so": library}))
        assert "fields missing or unknown: '" in refused(tmp_path / "a.bnn")


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"\xff", b"[" * 100_000, b"1" * 5000, b'{"format": ' + b"9" * 4000 + b"}"]
)
def test_manifest_that_is_no_manifest(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.bnn").write_bytes(zipped({"manifest.json": text, "model.so": LIBRARY}))
    assert "manifest.json" in refused(tmp_path / "a.bnn")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_pass_for_another_artifact(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fuzzed.bnn"
    sample().save(path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        # The directory at the end of the zip is where its parser is most inventive.
        place = data.draw(st.sampled_from([place, len(whole) - 1 - place % 200]))
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path.write_bytes(bytes(whole[:cut]))
    with contextlib.suppress(ArtifactError):
        assert Artifact.load(path) == sample()


def test_tensors_may_have_any_name(tmp_path: Path) -> None:
    """They are the source model's. What is shown to people alone is printable."""
    made = sample()
    odd = dataclasses.replace(made.manifest.inputs[0], name="modell\u00a0\n\x1b[2J\u20ac")
    Artifact(dataclasses.replace(made.manifest, inputs=(odd,)), made.library).save(tmp_path / "a.bnn")
    assert Artifact.load(tmp_path / "a.bnn").manifest.inputs == (odd,)
