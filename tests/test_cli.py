"""Every command, and every way a user can get it wrong: exit code, one line, no traceback, nothing left half done."""

import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bnncc
from bnncc import cli
from bnncc.cli import doctor
from bnncc.runtime import openmp
from bnncc.runtime.artifact import Artifact
from tests import toys

LEFT = np.array([[1, -2, 3], [-4, 5, 6]], np.float32)
RIGHT = np.full((2, 3), 10, np.float32)


def bnncc_command(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def succeeds(*arguments: object) -> str:
    result = bnncc_command(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: object, says: str) -> None:
    """Exit code 1, one line on stderr that begins `error: ` and says what it must, nothing on stdout."""
    result = bnncc_command(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy.bnn beside the toy.onnx it was compiled from."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "toy.onnx").write_bytes(toys.add_and_relu())
    bnncc.compile(folder / "toy.onnx").save(folder / "toy.bnn")
    return folder / "toy.bnn"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "in.npz", left=LEFT, right=RIGHT)
    return tmp_path / "in.npz"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    help_text = succeeds(name, "--help")
    assert f"\n    bnncc {name}" in help_text
    assert "--json FILE" in help_text


def test_version() -> None:
    assert succeeds("--version") == f"bnncc, version {bnncc.__version__}\n"


def test_usage_errors_are_2() -> None:
    for arguments in (["nonsense"], ["compile"], ["compile", "a.onnx"], ["run", "a.bnn"], ["bench"]):
        assert bnncc_command(*arguments).exit_code == 2
    for shape in ("x", "x=", "=1,2", "x=1,b", "x=1,0", "x=1,,2"):
        assert bnncc_command("compile", "a.onnx", "--target", "native", "--shape", shape).exit_code == 2
    assert bnncc_command("bench", "a.bnn", "--baseline", "onnxruntime").exit_code == 2
    assert bnncc_command("inspect", "a.bnn", "--target", "arm").exit_code == 2


def test_compile_then_run(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(toys.add_and_relu())
    printed = succeeds("compile", tmp_path / "toy.onnx", "--target", "native", "-o", tmp_path / "toy.bnn")
    assert "toy.bnn: target " in printed
    assert "sum" in succeeds("run", tmp_path / "toy.bnn", "-i", inputs, "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as out:
        assert sorted(out.files) == ["positive", "sum"]
        np.testing.assert_array_equal(out["sum"], LEFT + RIGHT)


def test_compile_writes_beside_the_model_and_reports_json(tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(toys.add_and_relu())
    report = json.loads(succeeds("compile", tmp_path / "toy.onnx", "--target", "x86", "--json", "-"))
    assert report["artifact"] == str(tmp_path / "toy.bnn")
    assert report["target"] == "x86"
    assert report["bytes"] == (tmp_path / "toy.bnn").stat().st_size


def test_compile_takes_what_did_not_change_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "again.onnx").write_bytes(toys.add_and_relu())
    command = ("compile", tmp_path / "again.onnx", "--target", "x86-avx2")
    assert "compiled in" in succeeds(*command)
    first = (tmp_path / "again.bnn").read_bytes()
    (tmp_path / "again.bnn").unlink()
    assert "unchanged" in succeeds(*command)
    assert (tmp_path / "again.bnn").read_bytes() == first
    assert "compiled in" in succeeds(*command, "--no-cache")
    assert "compiled in" in succeeds(*command[:3], "x86")


def test_compile_fixes_dynamic_shapes_and_dumps_ir(tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(toys.add_and_relu(("batch", 3)))
    shapes = ("--shape", "left=5,3", "--shape", "right=5,3")
    succeeds("compile", tmp_path / "toy.onnx", "--target", "native", *shapes, "--dump-ir", tmp_path / "ir")
    assert Artifact.load(tmp_path / "toy.bnn").manifest.inputs[0].shape == (5, 3)
    assert any((tmp_path / "ir").iterdir())


def damaged(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "toy.onnx"),
        (b"this is no protobuf", "toy.onnx"),
        (damaged(toys.add_and_relu()), "toy.onnx"),
        (toys.one_node("Nonsense", "bnncc"), "Nonsense"),
        (toys.add_and_relu(("batch", 3)), "left"),
        (toys.batch_norm(scale=float("nan")), "node 'y' (ai.onnx.BatchNormalization)"),
        (toys.convolution_of_other_channels(), "node 'y' (ai.onnx.Conv)"),
    ],
    ids=["empty", "text", "truncated", "unknown operator", "dynamic", "nan", "channels"],
)
@pytest.mark.parametrize("command", ["compile", "inspect"])
def test_bad_models(tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, content: bytes, says: str) -> None:
    (tmp_path / "toy.onnx").write_bytes(content)
    fails(command, tmp_path / "toy.onnx", "--target", "native", says=says)
    gc.collect()
    assert capfd.readouterr() == ("", ""), "libraries print beside the one line"
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_bad_arguments_of_compile(tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(toys.add_and_relu())
    model = tmp_path / "toy.onnx"
    fails("compile", tmp_path / "none.onnx", "--target", "native", says="none.onnx")
    fails("compile", model, "--target", "pdp11", says="'pdp11' is not known; choose one of native")
    fails("compile", model, "--target", "native", "-o", model, says="is the input")
    fails("compile", model, "--target", "native", "--shape", "other=1,3", says="other")
    fails("compile", model, "--target", "native", "-o", tmp_path / "no" / "toy.bnn", says="cannot be written")
    fails("compile", model, "--target", "native", "-o", tmp_path, says="cannot be written")
    fails("compile", model, "--target", "native", "-o", "", says="cannot be written")
    fails("compile", model, "--target", "native", "--dump-ir", model, says="is no folder and cannot be made one")
    fails("compile", "", "--target", "native", says="cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


@pytest.mark.parametrize("command", ["run", "bench", "inspect"])
def test_bad_artifacts(tmp_path: Path, compiled: Path, inputs: Path, command: str) -> None:
    more = ["-i", inputs, "-o", tmp_path / "out.npz"] if command == "run" else []
    bad = tmp_path / "bad.bnn"
    fails(command, bad, *more, says="cannot be read")
    for content in (b"", damaged(compiled.read_bytes()), b"PK\x03\x04 not really"):
        bad.write_bytes(content)
        fails(command, bad, *more, says="bad.bnn: is not a whole .bnn file")
    artifact = Artifact.load(compiled)
    if command != "inspect":
        dataclasses.replace(
            artifact, manifest=dataclasses.replace(artifact.manifest, triple="mips64-linux-gnu", target="mips")
        ).save(bad)
        fails(command, bad, *more, says="target 'mips' is made for mips64")
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"left": LEFT}, "found arrays 'left', allowed are exactly 'left', 'right'"),
        ({"left": LEFT, "right": RIGHT, "other": RIGHT}, "found arrays 'left', 'other', 'right'"),
        ({"left": LEFT, "right": RIGHT[:1]}, "'right': found float32 [1, 3], allowed is float32 [2, 3]"),
        ({"left": LEFT.astype(np.float64), "right": RIGHT}, "'left': found float64"),
        ({"left": LEFT, "right": np.array([{}])}, "'right': found object"),
        ({}, "found arrays none"),
    ],
)
def test_bad_inputs_of_run(tmp_path: Path, compiled: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    fails("run", compiled, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz", says=says)
    assert not (tmp_path / "out.npz").exists()


def test_damaged_inputs_of_run(tmp_path: Path, compiled: Path, inputs: Path) -> None:
    whole = inputs.read_bytes()
    arguments = (compiled, "-i", inputs, "-o", tmp_path / "out.npz")
    for content in (b"", damaged(whole), whole.replace(b"NUMPY", b"RUMPY"), whole.replace(b"'descr'", b"'d\x00scr'")):
        inputs.write_bytes(content)
        fails("run", *arguments, says="in.npz")
    np.save(inputs.with_suffix(".npy"), LEFT)
    inputs.with_suffix(".npy").replace(inputs)
    fails("run", *arguments, says="is not a whole .npz file")
    fails("run", compiled, "-i", tmp_path / "none.npz", "-o", tmp_path / "out.npz", says="cannot be read")
    fails("run", compiled, "-i", inputs, "-o", inputs, says="is the input")


def test_run_passes_over_labels_and_takes_both_orders(tmp_path: Path, compiled: Path) -> None:
    np.savez_compressed(tmp_path / "in.npz", left=np.asfortranarray(LEFT), right=RIGHT, labels=np.arange(2))
    report = json.loads(succeeds("run", compiled, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--json", "-"))
    assert [tensor["name"] for tensor in report["tensors"]] == ["sum", "positive"]
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["sum"], LEFT + RIGHT)


def test_inspect_model_and_artifact(compiled: Path, exported: Callable[[str], Path]) -> None:
    of_model = json.loads(succeeds("inspect", compiled.with_suffix(".onnx"), "--json", "-"))
    of_artifact = json.loads(succeeds("inspect", compiled, "--json", "-"))
    assert of_model["layers"] == of_artifact["layers"]
    printed = succeeds("inspect", exported("digits_net"), "--target", "arm", "-v")
    assert "yes" in printed
    assert "of them binary" in printed
    assert "Passes" in printed


def test_bench(tmp_path: Path, compiled: Path) -> None:
    baseline = ("--baseline", "onnxruntime", "--baseline-model", compiled.with_suffix(".onnx"))
    options = ("--min-time", "0.01", "--profile", "--samples", *baseline, "--json", tmp_path / "bench.json")
    printed = succeeds("bench", compiled, *options)
    assert "Latency (measured)" in printed
    assert "onnxruntime" in printed
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["kind"] == "measured"
    assert len(record["latency"]["samples_us"]) == record["latency"]["n"]
    assert len(record["layers"]) == len(Artifact.load(compiled).manifest.layers)
    assert record["baseline"]["max_abs_difference"] == 0
    assert record["peaks_gmacs"] == {}
    assert "no peaks: compile the model with --peaks" in printed
    assert "of peak" not in printed


def test_bench_compares_layers_with_peaks_where_there_are_some(tmp_path: Path, exported: Callable[[str], Path]) -> None:
    artifact = tmp_path / "net.bnn"
    succeeds("compile", exported("digits_net"), "--target", "native", "--peaks", "-o", artifact)
    options = ("--min-time", "0.01", "--profile", "--json", tmp_path / "bench.json")
    printed = succeeds("bench", artifact, *options)
    assert "measured peak of one thread, binary" in printed
    assert "of peak" in printed
    assert "--peaks" not in printed
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["peaks_gmacs"].keys() == {"binary", "float32"}
    # A layer that takes no longer than the clock itself has no rate.
    rates = [layer["of_peak"] for layer in record["layers"] if layer["macs"] and layer["us"]]
    assert rates
    assert all(rate > 0 for rate in rates)


def test_threads(tmp_path: Path, compiled: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("run", compiled, "-i", inputs, "-o", tmp_path / "out.npz")
    assert "sum" in succeeds(*run, "--threads", 2)
    fails(*run, "--threads", 0, says="threads 0: allowed are 1 to 64")
    options = ("--min-time", "0.01", "--threads", 2, "--json", tmp_path / "bench.json")
    assert ", 2 threads" in succeeds("bench", compiled, *options)
    assert json.loads((tmp_path / "bench.json").read_text())["threads"] == 2

    monkeypatch.setattr(openmp, "_functions", lambda: ((), os.getpid()))
    result = bnncc_command(*run, "--threads", 2)
    assert result.exit_code == 0
    assert result.stderr.startswith("notice: 2 threads were asked for and one runs: libgomp.so.1 is not")
    assert result.stderr.count("\n") == 1


def test_bench_refuses_another_baseline_model(tmp_path: Path, compiled: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(toys.one_node("Relu"))
    for name, says in (("other.onnx", "SHA-256"), ("none.onnx", "cannot be read")):
        fails("bench", compiled, "--baseline", "onnxruntime", "--baseline-model", tmp_path / name, says=says)


def test_targets(tmp_path: Path) -> None:
    assert "native: " in succeeds("targets", "--json", tmp_path / "targets.json")
    report = json.loads((tmp_path / "targets.json").read_text())
    assert {"x86", "arm"} <= {target["name"] for target in report["targets"]}
    assert report["native"] in {target["name"] for target in report["targets"] if target["runs_here"]}


def test_doctor() -> None:
    checks = json.loads(succeeds("doctor", "--json", "-"))
    assert {check["name"] for check in checks if check["ok"]} >= {"python", "numpy", "apache-tvm", "onnx", "ziglang"}
    assert "best target" in succeeds("doctor")


def test_doctor_ends_in_1_if_compiling_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PINS, "apache-tvm-ffi", "9.9.9")
    result = bnncc_command("doctor")
    assert result.exit_code == 1
    assert "pip install apache-tvm-ffi==9.9.9" in result.stdout
    assert result.stderr.startswith("error: compiling cannot work without apache-tvm-ffi")


def test_interrupted_is_130_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "toy.onnx").write_bytes(toys.add_and_relu())
    monkeypatch.setattr("bnncc.compiler.compile", interrupt)
    command = ("compile", tmp_path / "toy.onnx", "--target", "native", "--no-cache")
    result = bnncc_command(*command)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", interrupt)
    assert bnncc_command(*command).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("bnncc.runtime.cpu.features", bug)
    assert isinstance(bnncc_command("targets").exception, ZeroDivisionError)


@pytest.mark.parametrize(("module", "extra"), [("tvm.relax", "compile"), ("onnx", "compile"), ("rich", "cli")])
def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("bnncc.compiler.compile", missing)
    fails("compile", tmp_path / "toy.onnx", "--target", "native", says=f"pip install 'bnncc[{extra}]'")


def test_without_click_the_command_says_what_to_install() -> None:
    script = "import sys; sys.modules['click'] = None; import bnncc.cli"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: click is not installed; pip install 'bnncc[cli]'\n")


def test_output_is_plain_when_piped() -> None:
    done = subprocess.run([sys.executable, "-m", "bnncc", "targets"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert "x86-avx512" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path, compiled: Path, inputs: Path) -> None:
    """As under cron or a launcher: the work is done, and the exit code says so."""
    command = f"{sys.executable} -m bnncc"
    model = tmp_path / "net.onnx"
    model.write_bytes(toys.add_and_relu())
    for line in (
        f"run {compiled} -i {inputs} -o {tmp_path}/y.npz",
        f"compile {model} --target native --no-cache",
        "targets",
    ):
        assert subprocess.run(f"{command} {line} {closed}", shell=True, check=False).returncode == 0, line
    assert (tmp_path / "y.npz").is_file()
    bnncc.load(tmp_path / "net.bnn")
