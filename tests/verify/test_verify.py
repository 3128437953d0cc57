"""`bnncc verify` as a user has it: gates, baseline, reports, a failing case and its replay, what is refused."""

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import bnncc
from bnncc import cli, targets
from bnncc.passes import fold_thresholds
from bnncc.runtime.errors import InputError
from bnncc.verify import data, instructions
from bnncc.verify.layers import Check, decoded, hadamard
from bnncc.verify.scores import Rate
from tests.onnxmodels import model, node
from tests.verify.networks import NETWORKS


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["verify", *map(str, arguments)])


@pytest.fixture
def network(tmp_path: Path) -> list[Path | str]:
    """Arguments for a small network and samples with labels, layers not compared."""
    (tmp_path / "net.onnx").write_bytes(NETWORKS["dense"]())
    x = np.random.default_rng(3).standard_normal((4, 8, 9, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=np.arange(4))
    return [tmp_path / "net.onnx", "--data", tmp_path / "data.npz", "--layer-runs", "0"]


def test_gates_against_a_baseline(network: list[Path | str], tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    kept = {"other": {"arm": {"bytes": 3}}}
    baseline.write_text(json.dumps({"format": 1, "models": kept}))
    done = verify(*network, "--target", "x86", "--update-baseline", "--max-accuracy-drop", 0, "--min-agreement", 1)
    assert done.exit_code == 0, done.output
    models = json.loads(baseline.read_text())["models"]
    figures = models["net"]["x86"]
    assert models == kept | {"net": {"x86": figures}}
    assert figures["agreement"] == 1
    assert verify(*network, "--target", "x86", "--max-bytes", "+1%").exit_code == 0
    baseline.write_text(
        json.dumps({"format": 1, "models": {"net": {"x86": figures | {"bytes": figures["bytes"] // 2}}}})
    )
    reports = ("--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md", "--json", "-")
    failed = verify(*network, "--target", "x86", "--max-bytes", "+1%", *reports)
    assert failed.exit_code == 3
    assert failed.stderr.startswith("error: --max-bytes: found ")
    assert failed.stderr.count("\n") == 1
    assert [gate["passed"] for gate in json.loads(failed.stdout)["gates"]] == [False]
    assert xml.parse(tmp_path / "j.xml").getroot().get("failures") == "1"
    assert "**failed**" in (tmp_path / "m.md").read_text()


@pytest.mark.parametrize("target", ["x86-avx2", "arm"])
def test_executed_instructions(target: str, network: list[Path | str]) -> None:
    if reason := instructions.missing(targets.find(target)):
        pytest.skip(reason)
    count = instructions.count(network[0], targets.find(target))
    done = verify(*network, "--target", target, "--max-instructions", count - count // 100, "--json", "-")
    assert done.exit_code == 3
    assert abs(json.loads(done.stdout)["figures"]["instructions"] - count) <= count / 5000


def test_a_failing_case_is_written_and_replayed(network: list[Path | str], tmp_path: Path) -> None:
    original = fold_thresholds.intervals

    def off_by_one(*given: Any) -> Any:
        found = original(*given)
        return found and (found[0] + 1, found[1])

    (tmp_path / "net.onnx").write_bytes(NETWORKS["straight"]())
    x = np.random.default_rng(3).standard_normal((4, 8, 9, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    command = [*network[:-1], "1", "--no-passes"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_thresholds, "intervals", off_by_one)
        failed = verify(*command)
        assert failed.exit_code == 3
        assert "machine code changes layer 'conv2'" in failed.stderr
        case = tmp_path / "net.case"
        assert verify(case).exit_code == 3
    assert verify(case).exit_code == 0
    with np.load(case / "input.npz") as shrunk:
        assert sum(np.count_nonzero(array) for array in shrunk.values()) < 8 * 9 * 8
    (case / "case.json").write_text('{"format": 1, "checks": [{"output": 3}]}')
    damaged = verify(case)
    assert (damaged.exit_code, damaged.stderr.count("\n")) == (1, 1)
    assert verify(*command).exit_code == 0


def test_what_is_refused(network: list[Path | str], tmp_path: Path) -> None:
    for more, code in (
        (["--max-bytes", "+2%"], 1),
        (["--max-bytes", "few"], 1),
        (["--target", "nonsense"], 1),
        (["--max-latency-ratio", "1.1"], 2),
        (["--mean", "a"], 2),
    ):
        done = verify(*network, *more)
        assert done.exit_code == code, done.output
        assert code == 2 or done.stderr.count("\n") == 1
    for damaged in ("[]", '{"format": 1, "models": {"net": {"x86": {"bytes": -1}}}}', "{"):
        (tmp_path / "baseline.json").write_text(damaged)
        assert "is no baseline" in verify(*network).stderr
    (tmp_path / "baseline.json").unlink()
    np.savez(tmp_path / "wrong.npz", x=np.zeros((1, 2), np.float32))
    assert verify(network[0], "--data", tmp_path / "wrong.npz").stderr.startswith("error: data: array 'x'")


def test_latency_beside_an_old_artifact(network: list[Path | str], tmp_path: Path) -> None:
    """Nothing here depends on how fast either is: one limit is beyond reach, the other always kept."""
    bnncc.compile(network[0]).save(tmp_path / "old.bnn")
    beside = ("--baseline-artifact", tmp_path / "old.bnn", "--json", "-", "--max-latency-ratio")
    assert verify(*network, *beside, 1e6).exit_code == 0
    failed = verify(*network, *beside, 0)
    assert failed.exit_code == 3
    assert json.loads(failed.stdout)["gates"][0]["found"] > 0
    other = model([node("Relu", ["x"], "y")], {}, (1, 3)).SerializeToString()
    bnncc.compile(other).save(tmp_path / "old.bnn")
    assert "takes other inputs than the model" in verify(*network, *beside, 1).stderr


def test_interrupted_while_it_writes(
    network: list[Path | str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the last step of writing a report: the old file stays, whole, and nothing lies beside it."""
    report = tmp_path / "report.xml"
    report.write_text("old")
    before = sorted(tmp_path.iterdir())

    def interrupt(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert verify(*network, "--junit", report, "--update-baseline").exit_code == 130
    assert report.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("layout", "channels"), [("NCHW", 3), ("NHWC", 3), ("NCHW", 1)])
def test_a_folder_of_images(layout: str, channels: int, tmp_path: Path) -> None:
    """Resized by its shorter side, cut in the middle, scaled: the same numbers as by hand."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, channels), np.uint8)
    for place in ("b/two.png", "a/one.png"):
        (tmp_path / place).parent.mkdir()
        Image.fromarray(pixels.squeeze()).save(tmp_path / place)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    mean, std = (0.5, 0.25, 0.125)[:channels], (0.5, 2.0, 4.0)[:channels]
    found = data.read(tmp_path, data.Recipe(12, 8, mean, std, layout), "x")
    cut = pixels[2:10, 4:12].astype(np.float32) / 255
    expected = (cut - np.array(mean, np.float32)) / np.array(std, np.float32)
    expected = expected if layout == "NHWC" else expected.transpose(2, 0, 1)
    np.testing.assert_array_equal(found["x"], np.stack([expected, expected]).astype(np.float32))
    assert found["labels"].tolist() == [0, 1]
    halved = data.read(tmp_path, data.Recipe(6, None, mean, std, "NHWC"), "x")["x"]
    assert halved.shape == (2, 6, 8, channels)
    (tmp_path / "a" / "torn.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"torn\.png: is no image that can be read"):
        data.read(tmp_path, data.Recipe(mean=mean, std=std), "x")


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 0 images"):
        data.read(tmp_path, data.Recipe(), "x")
    for name, size in (("a.png", (4, 4)), ("b.png", (5, 4))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(InputError, match="give --crop"):
        data.read(tmp_path, data.Recipe(), "x")
    with pytest.raises(InputError, match="smaller than --crop 6"):
        data.read(tmp_path, data.Recipe(crop=6), "x")


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (5, 1), (12, 3)])
def test_signs_are_read_back_from_sums(channels: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], (2, channels, 3))
    split = signs.reshape(2, groups, -1, 3)
    sums = np.einsum("oc,ngcx->ngox", hadamard(channels // groups), split).reshape(2, -1, 3)
    check = Check("y", "signs", "layer", channels=channels, groups=groups)
    assert (decoded(check, sums.astype(np.float32)) == signs).all()


def test_wilsons_interval() -> None:
    """Newcombe, R. G. (1998), Statistics in Medicine 17, table I, method 3: 81 of 263, 15 of 148, 0 of 20."""
    for hits, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        np.testing.assert_allclose(Rate(hits, total).interval, (low, high), atol=5e-5)
