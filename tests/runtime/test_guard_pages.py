"""Whole networks between pages that nobody may touch: nothing outside inputs, outputs and arena is read or written.

Each runs in a process of its own, which ends by a signal if it does. Kernels alone run so in all of their tests, see
tests/kernelrun.py.
"""

import ctypes
import faulthandler
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnncc
from bnncc.codegen import threads
from bnncc.runtime import abi
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.model import Model
from tests import guarded
from tests.onnxmodels import Array, model, node
from tests.runtime.test_indices import CASES, gathering, random_indices
from tests.test_random_networks import Network, networks, relaxed


def in_a_child(work: Callable[[], bool]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.disable()
            status = 0 if work() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def team() -> tuple[list[Any], list[int]]:
    """The functions of a team of three that run one after the other, and their addresses."""
    order: list[int] = []
    worker_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def parallel(worker: Callable[[int], None], data: int, count: int, flags: int) -> None:
        for number in range(count):
            order.append(number)
            worker(data)

    functions = [
        ctypes.CFUNCTYPE(None, worker_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel),
        ctypes.CFUNCTYPE(ctypes.c_int)(lambda: order[-1]),
        ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0),
    ]
    return functions, [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]


def same_between_guards(loaded: Model, inputs: list[Array], expected: list[bytes]) -> bool:
    manifest = loaded.manifest
    for at_end in (False, True):
        places = [guarded.memory(array.nbytes, at_end=at_end) for array in inputs]
        for place, array in zip(places, inputs, strict=True):
            place[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        outputs = [guarded.memory(tensor.nbytes, at_end=at_end) for tensor in manifest.outputs]
        arena = guarded.memory(manifest.arena_bytes, at_end=at_end, alignment=abi.ALIGNMENT)
        pointers = [array.ctypes.data for array in (*places, *outputs, arena)]
        kept, addresses = team()
        table = (ctypes.c_void_p * (len(addresses) + len(pointers)))(*addresses, *pointers)
        run, run_threads = loaded._functions.run, loaded._functions.run_threads
        for function, arguments in ((run, pointers), (run_threads, [len(kept), table])):
            for output in outputs:
                output.fill(0x55)
            if function(*arguments) or [output.tobytes() for output in outputs] != expected:
                return False
    return True


def check(artifact: Artifact, *inputs: Array) -> None:
    loaded = bnncc.load(artifact)
    expected = [array.tobytes() for array in loaded.run(*inputs).values()]
    in_a_child(lambda: same_between_guards(loaded, list(inputs), expected))


@st.composite
def hostile(draw: Any) -> tuple[Any, Array]:
    """Images of one pixel, of one row or column, of one channel; strides larger than they are."""
    shape = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from([1, 2, 3, 8, 17])),
        draw(st.sampled_from([1, 2, 7])),
        draw(st.sampled_from([1, 3, 9])),
    )
    network = Network(draw, shape)
    if draw(st.booleans()):
        network.binary_conv()
    else:
        kernel = [draw(st.integers(1, extent)) for extent in shape[2:]]
        strides = [draw(st.sampled_from([1, 2, 5, 50])) for _ in range(2)]
        pads = [draw(st.integers(0, size - 1)) for size in (*kernel, *kernel)]
        if draw(st.booleans()):
            network.apply("MaxPool", kernel_shape=kernel, strides=strides, pads=pads)
        else:
            weights = network.random.standard_normal((draw(st.sampled_from([1, 5, 16])), shape[1], *kernel))
            network.apply("Conv", network.constant("w", weights.astype(np.float32)), strides=strides, pads=pads)
    x = network.random.standard_normal(shape).astype(np.float32)
    return model(network.nodes, network.weights, shape, outputs=(network.name,)), x


@pytest.fixture(autouse=True)
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that several threads share what is as small as here."""
    monkeypatch.setattr(threads, "_LEAST_CHUNK", 1)
    monkeypatch.setattr(threads, "_LEAST_WORK", 1)


@settings(relaxed, max_examples=15)
@given(hostile())
def test_hostile_shapes(drawn: tuple[Any, Array]) -> None:
    content, x = drawn
    check(bnncc.compile(content.SerializeToString()), x)


@settings(relaxed, max_examples=8)
@given(networks())
def test_random_networks(drawn: tuple[Any, Array, str]) -> None:
    content, x, target = drawn
    check(bnncc.compile(content.SerializeToString(), target), x)


@pytest.mark.parametrize("name", ["digits_net", pytest.param("bireal_resnet20", marks=pytest.mark.slow)])
def test_exported_networks(name: str, exported: Callable[[str], Path]) -> None:
    artifact = bnncc.compile(exported(name))
    tensor = artifact.manifest.inputs[0]
    check(artifact, np.random.default_rng(0).standard_normal(tensor.shape).astype(tensor.dtype))


@pytest.mark.parametrize("case", CASES)
def test_hostile_indices(case: str) -> None:
    """Whatever the indices are, nothing else is read."""
    artifact = bnncc.compile(gathering(case).SerializeToString())
    loaded, x = bnncc.load(artifact), random_indices(case, "int64", 0)
    expected = [array.tobytes() for array in loaded.run(x).values()]
    in_a_child(lambda: same_between_guards(loaded, [x], expected))
    for index in (1 << 40, -(1 << 40), np.iinfo(np.int64).max, np.iinfo(np.int64).min, 99, -99):
        wrong = np.full_like(x, index)
        in_a_child(lambda wrong=wrong: same_between_guards(loaded, [wrong], []) is False)  # type: ignore[misc]


def test_who_reads_outside_dies() -> None:
    """The guards themselves."""
    relu = bnncc.compile(model([node("Relu", ["x"], "y")], {}, (1, 4)).SerializeToString())
    loaded = bnncc.load(relu)

    def too_short() -> bool:
        place = guarded.memory(12, at_end=True)
        y, arena = np.zeros(4, np.float32), np.zeros(4096, np.uint8)
        return loaded._functions.run(place.ctypes.data, y.ctypes.data, arena.ctypes.data) == 0

    with pytest.raises(AssertionError, match="-11"):
        in_a_child(too_short)
