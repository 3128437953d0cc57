"""One inference on several threads: the same bits for any number, and one thread where there is no pool."""

import ctypes
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import bnncc
from bnncc.codegen import threads
from bnncc.runtime import openmp
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.errors import OptionError
from tests import toys
from tests.onnxmodels import Array, model, node
from tests.test_random_networks import networks, relaxed

ROOT = Path(__file__).parents[2]


def outputs(artifact: Artifact, x: Array, count: int, times: int = 1) -> list[bytes]:
    """The bytes of all outputs, each of `times` runs."""
    loaded = bnncc.load(artifact, threads=count)
    assert loaded.threads == count
    results: list[bytes] = []
    for _ in range(times):
        results += [array.tobytes() for array in loaded.run(x).values()]
    return results


def same_for_any_number(artifact: Artifact, x: Array, times: int) -> None:
    expected = outputs(artifact, x, 1)
    for count in (2, 3, 4, 11):
        assert outputs(artifact, x, count, times) == expected * times, f"{count} threads"


def example(artifact: Artifact) -> Array:
    tensor = artifact.manifest.inputs[0]
    return np.random.default_rng(3).standard_normal(tensor.shape).astype(tensor.dtype)


@pytest.fixture(scope="module")
def resnet20(exported: Callable[[str], Path]) -> Artifact:
    return bnncc.compile(exported("bireal_resnet20"))


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    _divide_everything(monkeypatch)


def _divide_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks for tests are too small to be divided, but for this."""
    monkeypatch.setattr(threads, "_LEAST_CHUNK", 1)
    monkeypatch.setattr(threads, "_LEAST_WORK", 1)


@settings(relaxed, max_examples=8)
@given(networks())
def test_random_networks(drawn: tuple[Any, Array, str]) -> None:
    content, x, target = drawn
    with pytest.MonkeyPatch.context() as patch:
        _divide_everything(patch)
        artifact = bnncc.compile(content.SerializeToString(), target)
    same_for_any_number(artifact, x, times=3)


def test_an_exported_network(resnet20: Artifact) -> None:
    same_for_any_number(resnet20, example(resnet20), times=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quicknet", "reactnet18", "bireal_resnet18"])
def test_large_networks(name: str, exported: Callable[[str], Path]) -> None:
    artifact = bnncc.compile(exported(name))
    same_for_any_number(artifact, example(artifact), times=5)


@pytest.mark.usefixtures("divided")
def test_images_of_a_padded_batch_go_through_one_workspace() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((16, 8, 3, 3)).astype(np.float32)}
    nodes = [node("Conv", ["x", "w"], "a", pads=[1, 1, 1, 1]), node("Softmax", ["a"], "y", axis=1)]
    artifact = bnncc.compile(model(nodes, weights, (3, 8, 9, 9)).SerializeToString())
    assert any(layer.why_not.startswith("no kernel of ours") for layer in artifact.manifest.layers)
    same_for_any_number(artifact, example(artifact), times=5)


@pytest.mark.usefixtures("divided")
def test_steps_run_all_calls_of_their_layer() -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)}
    artifact = bnncc.compile(
        model([node("Conv", ["x", "w"], "y", pads=[1] * 4)], weights, (2, 2, 5, 5)).SerializeToString()
    )
    loaded, x = bnncc.load(artifact), example(artifact)
    binding = loaded.bind(x)
    for index in range(len(artifact.manifest.layers)):
        binding.step(index)
    assert binding.outputs["y"].tobytes() == loaded.run(x)["y"].tobytes()


def test_bound_networks_take_the_threads(resnet20: Artifact) -> None:
    x = example(resnet20)
    binding = bnncc.load(resnet20, threads=2).bind(x)
    binding.run()
    assert [array.tobytes() for array in binding.outputs.values()] == outputs(resnet20, x, 1)


def test_a_team_that_runs_one_after_the_other(resnet20: Artifact) -> None:
    """No thread is waited for: the first does everything, the others find nothing left."""
    x, loaded = example(resnet20), bnncc.load(resnet20)
    order: list[int] = []

    def parallel(worker: Callable[[int], None], data: int, count: int, flags: int) -> None:
        for number in reversed(range(count)):
            order.append(number)
            worker(data)

    def never() -> int:
        raise AssertionError("somebody waits")

    worker_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    kinds = (
        ctypes.CFUNCTYPE(None, worker_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel),
        ctypes.CFUNCTYPE(ctypes.c_int)(lambda: order[-1]),
        ctypes.CFUNCTYPE(ctypes.c_int)(never),
    )
    functions = tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in kinds)
    loaded._team = openmp.Team(functions, 3, os.getpid())
    assert [array.tobytes() for array in loaded.run(x).values()] == outputs(resnet20, x, 1)
    assert order == [2, 1, 0]


def test_fewer_threads_than_asked_for(resnet20: Artifact, tmp_path: Path) -> None:
    """OpenMP may give a smaller team than it is asked for."""
    resnet20.save(tmp_path / "net.bnn")
    np.save(tmp_path / "x.npy", example(resnet20))
    script = (
        "import sys, numpy, bnncc\n"
        "net, x = sys.argv[1:]\n"
        "sys.stdout.buffer.write(bnncc.load(net, threads=4)(numpy.load(x)).tobytes())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "net.bnn"), str(tmp_path / "x.npy")]
    limited = os.environ | {"OMP_THREAD_LIMIT": "1"}
    done = subprocess.run(command, cwd=ROOT, env=limited, capture_output=True, check=True)
    assert done.stdout == outputs(resnet20, example(resnet20), 1)[0]


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"], ids=["python", "c"])
def test_a_forked_process_runs_on_one_thread(fork: str, resnet20: Artifact, tmp_path: Path) -> None:
    resnet20.save(tmp_path / "net.bnn")
    script = """
import ctypes, os, signal, sys, warnings, numpy, bnncc
net = bnncc.load(sys.argv[1], threads=2)
x = numpy.ones(net.manifest.inputs[0].shape, numpy.float32)
expected, bound = net(x), net.bind(x)
if child := FORK:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(60)
bound.run()
assert net.threads == 1
assert (net(x) == expected).all()
assert all((y == expected).all() for y in bound.outputs.values())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert bnncc.load(sys.argv[1], threads=2).threads == 1
assert "was forked after libgomp.so.1 was loaded" in str(caught[0].message)
""".replace("FORK", fork)
    command = [sys.executable, "-c", script, str(tmp_path / "net.bnn")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_small_networks_start_no_team() -> None:
    loaded = bnncc.load(bnncc.compile(toys.one_node("Relu")), threads=2)
    loaded._team = openmp.Team((1, 1, 1), 2, os.getpid())  # functions nobody may call
    np.testing.assert_array_equal(loaded(np.array([[-1, 0, 2, 3]], np.float32)), [[0, 0, 2, 3]])


@pytest.fixture
def no_libgomp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    openmp._functions.cache_clear()
    monkeypatch.setattr(openmp, "_LIBRARY", "libnowhere.so.1")
    yield
    openmp._functions.cache_clear()


@pytest.mark.usefixtures("no_libgomp")
def test_without_libgomp_one_thread_runs() -> None:
    artifact = bnncc.compile(toys.one_node("Relu"))
    with pytest.warns(openmp.ThreadsWarning, match="2 threads were asked for and one runs: .* install it") as caught:
        loaded = bnncc.load(artifact, threads=2)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert loaded.threads == 1
    np.testing.assert_array_equal(loaded(np.array([[-1, 0, 2, 3]], np.float32)), [[0, 0, 2, 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnncc.load(artifact, threads=1)


@pytest.mark.parametrize("count", [0, -1, 65])
def test_numbers_of_threads_that_are_not_allowed(count: int) -> None:
    with pytest.raises(OptionError, match=f"threads {count}: allowed are 1 to 64"):
        bnncc.load(bnncc.compile(toys.one_node("Relu")), threads=count)
