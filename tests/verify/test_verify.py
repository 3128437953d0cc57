"""`bnncc verify` as a user has it: gates, baseline, reports, a failing case and its replay, what is refused."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bnncc import cli, targets
from bnncc.passes import fold_thresholds
from bnncc.verify import instructions
from bnncc.verify.layers import Check, decoded, hadamard
from bnncc.verify.scores import Rate
from tests.verify.test_mutations import NETWORKS


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["verify", *map(str, arguments)])


@pytest.fixture
def network(tmp_path: Path) -> list[Path | str]:
    """Arguments for a small network and samples with labels, layers not compared."""
    (tmp_path / "net.onnx").write_bytes(NETWORKS["straight"]())
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
