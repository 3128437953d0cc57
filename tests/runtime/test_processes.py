"""Models in other people's programs: they fork, become daemons, end in the middle of a call, load others' libraries."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc import compiler
from bnncc.runtime import model
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.errors import InputError
from tests import toys

ROOT = Path(__file__).parents[2]
X = np.array([[-1, 0, 2, 3]], np.float32)


@pytest.fixture(scope="module")
def relu() -> Artifact:
    return bnncc.compile(toys.one_node("Relu"))


@pytest.fixture(scope="module")
def negative() -> Artifact:
    return bnncc.compile(toys.one_node("Neg"))


def in_a_process(script: str, folder: Path, *artifacts: Artifact) -> None:
    """Run a script that finds the artifacts as 0.bnn, 1.bnn, ...; it must end well, silently and within a minute."""
    for number, artifact in enumerate(artifacts):
        artifact.save(folder / f"{number}.bnn")
    head = "import gc, os, signal, sys, threading, time\nimport numpy as np\nimport bnncc\n"
    head += "x = np.array([[-1, 0, 2, 3]], np.float32)\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", head + script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FOR_EVER = """
net = bnncc.load("0.bnn")
def loop():
    while True:
        net(x)
threading.Thread(target=loop, daemon=True).start()
"""


def test_the_program_ends_while_a_daemon_thread_runs(exported: Callable[[str], Path], tmp_path: Path) -> None:
    script = FOR_EVER.replace("(x)", "(np.zeros((1, 1, 8, 8), np.float32))") + "time.sleep(0.2)\n"
    in_a_process(script, tmp_path, bnncc.compile(exported("digits_net")))


def test_a_signal_ends_the_program_while_a_daemon_thread_runs(relu: Artifact, tmp_path: Path) -> None:
    script = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
while True:
    time.sleep(0.05)
"""
    in_a_process(FOR_EVER + script, tmp_path, relu)


def test_a_model_that_is_no_longer_used_is_unloaded(relu: Artifact, tmp_path: Path) -> None:
    script = """
def mapped():
    return sum("memfd:bnncc" in line and "r-xp" in line for line in open("/proc/self/maps"))
nets = [bnncc.load("0.bnn") for _ in range(3)]
assert mapped() == 3
del nets
gc.collect()
assert mapped() == 0
"""
    in_a_process(script, tmp_path, relu)


def test_a_daemon_closes_what_is_open_and_loads_another(relu: Artifact, negative: Artifact, tmp_path: Path) -> None:
    """Descriptors' numbers come again, libraries must not; files of the program stay open when a model goes."""
    script = """
first = bnncc.load("0.bnn")
os.closerange(3, 256)
second = bnncc.load("1.bnn")
assert first(x).tolist() == [[0, 0, 2, 3]]
assert second(x).tolist() == [[1, 0, -2, -3]]
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
del first, second
gc.collect()
for file in files:
    os.fstat(file)
"""
    in_a_process(script, tmp_path, relu, negative)


def test_a_model_holds_no_descriptor(relu: Artifact, tmp_path: Path) -> None:
    script = """
bnncc.load("0.bnn")
before = set(os.listdir("/proc/self/fd"))
nets = [bnncc.load("0.bnn") for _ in range(5)]
assert set(os.listdir("/proc/self/fd")) == before
assert [net(x).tolist() for net in nets] == [[[0, 0, 2, 3]]] * 5
"""
    in_a_process(script, tmp_path, relu)


def test_a_fork_while_another_thread_runs(relu: Artifact, tmp_path: Path) -> None:
    script = """
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        net(x)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    in_a_process("import warnings\nwarnings.simplefilter('ignore')\n" + FOR_EVER + script, tmp_path, relu)


def test_paths_of_libraries_are_all_different() -> None:
    paths = [model._path(3, number) for number in range(1000)]
    assert len(set(paths)) == 1000
    assert {os.path.normpath(path) for path in paths} == {"/proc/self/fd/3"}


def test_another_library_with_the_same_functions_is_not_called(
    relu: Artifact, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    """bnncc_run_threads calls bnncc_run, its own also where the program loaded another one for all to see."""
    (tmp_path / "relu.so").write_bytes(relu.library)
    script = """
import ctypes
ctypes.CDLL(os.path.abspath("relu.so"), ctypes.RTLD_GLOBAL)
x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
expected = bnncc.load("0.bnn")(x)
assert expected.any()
assert np.array_equal(bnncc.load("0.bnn", threads=2)(x), expected)
"""
    in_a_process(script, tmp_path, bnncc.compile(exported("digits_net")))


class TestBinding:
    @pytest.mark.parametrize(
        "view",
        [
            lambda frame: frame.reshape(4, 2)[:, :1].T,
            lambda frame: frame[:4].reshape(1, 4),
            lambda frame: frame[3::-1].reshape(1, 4),
        ],
        ids=["strided", "contiguous", "backwards"],
    )
    def test_every_run_reads_the_frame(self, view: Callable[..., np.ndarray], negative: Artifact) -> None:
        frame = np.zeros(8, np.float32)
        bound = bnncc.load(negative).bind(view(frame))
        for seed in range(3):
            frame[:] = np.random.default_rng(seed).standard_normal(8)
            bound.run()
            assert np.array_equal(bound.outputs["y"], -view(frame))

    def test_by_name(self, negative: Artifact) -> None:
        bound = bnncc.load(negative).bind({"x": X})
        bound.run()
        assert np.array_equal(bound.outputs["y"], -X)


def test_channels_last_are_told_to_be_transposed(exported: Callable[[str], Path]) -> None:
    net = bnncc.load(bnncc.compile(exported("bireal_resnet20")))
    with pytest.raises(InputError, match=r"channels come before rows and columns: \.transpose\(0, 3, 1, 2\)"):
        net(np.zeros((1, 32, 32, 3), np.float32))


class TestCompiling:
    def test_in_threads(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Every thread gets its own artifact, and nobody's standard output is taken away."""
        stdout, found, seen = sys.stdout, {}, set()

        def job(name: str) -> None:
            found[name] = bnncc.load(compiler.compile(toys.one_node(name))).run(X)["y"].tolist()

        jobs = [threading.Thread(target=job, args=(name,)) for name in ("Neg", "Relu", "Abs", "Neg")]
        for each in jobs:
            each.start()
        while any(each.is_alive() for each in jobs):
            seen.add(id(sys.stdout))
            jobs[0].join(0.001)
        assert found == {"Neg": [[1, 0, -2, -3]], "Relu": [[0, 0, 2, 3]], "Abs": [[1, 0, 2, 3]]}
        assert seen <= {id(stdout)}
        assert sys.stdout is stdout
        assert capfd.readouterr().out == ""

    def test_in_a_program_that_is_not_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        assert bnncc.load(bnncc.compile(toys.one_node("Neg"))).run(X)["y"].tolist() == [[1, 0, -2, -3]]
