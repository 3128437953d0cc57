"""Training repeats itself to the bit, also where it was killed in between, and several processes act as one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bnncc.runtime.errors import InputError
from bnncc.train import History, Options, checkpoint, fit, history
from tests.train.worker import data, network, options

ROOT = Path(__file__).parents[2]
STEPS = 5  # an epoch: 70 images in batches of 16, the last of six


def weights(folder: Path) -> dict[str, Tensor]:
    """All that is left at the end: parameters and statistics."""
    return checkpoint.read(folder / checkpoint.NAME).network


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def work(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The worker, in processes of its own; returns when all of them have ended."""
    command = [sys.executable, "-W", "error", "-m", "tests.train.worker", str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing came in between."""
    folder = tmp_path_factory.mktemp("whole")
    fit(network(), data(), options(), folder)
    return folder


def test_twice_the_same_bits(whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # what the caller draws from is neither used nor changed
    before = torch.get_rng_state()
    module = network()
    found = fit(module, data(), options(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(tmp_path), weights(whole))
    assert same(module.state_dict(), weights(whole))
    assert not module.training
    assert [(e.loss, e.test_accuracy, e.flips) for e in found.epochs] == [
        (e.loss, e.test_accuracy, e.flips) for e in history.read(whole / history.LOG).epochs
    ]
    assert not same(weights(whole), network().state_dict())


@pytest.mark.parametrize("step", [0, 3, STEPS, 2 * STEPS + 1])
def test_killed_and_resumed_the_same_bits(step: int, whole: Path, tmp_path: Path) -> None:
    killed = work(tmp_path, "--signal-at", str(step))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = checkpoint.read(tmp_path / checkpoint.NAME)
    assert (state.epoch, state.step) == divmod(step, STEPS)
    found = fit(network(), data(), options(), tmp_path)
    assert same(weights(tmp_path), weights(whole))
    assert trace(found) == trace(history.read(whole / history.LOG))


def trace(found: History) -> list[tuple[float, ...]]:
    return [(e.epoch, e.loss, e.accuracy, e.test_loss, e.test_accuracy, e.flips) for e in found.epochs]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_says_how_to_go_on(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    stopped = work(tmp_path, "--signal-at", "6", "--signal", str(int(number)))
    assert stopped.returncode == 1  # an exception that the worker lets pass
    assert "stopped in epoch 2 of 3 after 2 of 5 steps; the same command goes on from there" in stopped.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.NAME, history.LOG]
    fit(network(), data(), options(), tmp_path)
    assert same(weights(tmp_path), weights(whole))


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = (whole / checkpoint.NAME).read_bytes()
    module = network()
    assert len(fit(module, data(), options(), whole).epochs) == 3
    assert (whole / checkpoint.NAME).read_bytes() == before
    assert same(module.state_dict(), weights(whole))


def test_another_training_is_refused(whole: Path) -> None:
    others = [
        (Options(epochs=4, device="cpu"), data(), r"batch 16, found 128"),
        (options(), data(60), r"images '\w+', found '\w+'"),
    ]
    for given, images, message in others:
        with pytest.raises(InputError, match=rf"checkpoint.pt: was begun with {message}; give the same to go on, or"):
            fit(network(), images, given, whole)
    with pytest.raises(InputError, match=r"is of another network"):
        fit(network(norm=False), data(), options(), whole)


def test_two_processes_average_the_gradients_of_one(tmp_path: Path) -> None:
    gradients = []
    for processes in (1, 2):
        done = work(tmp_path / str(processes), "--one-step", "--processes", str(processes))
        assert done.returncode == 0, done.stderr
        optimizer = checkpoint.read(tmp_path / str(processes) / checkpoint.NAME).optimizer
        state = optimizer["state"]
        assert isinstance(state, dict)
        gradients.append([state[index]["momentum_buffer"] for index in sorted(state)])
    one, two = gradients
    assert len(one) == 6
    for wanted, found in zip(one, two, strict=True):
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_two_processes_killed_and_resumed(tmp_path: Path) -> None:
    kept, cut = tmp_path / "kept", tmp_path / "cut"
    assert work(kept, "--processes", "2").returncode == 0
    assert work(cut, "--processes", "2", "--signal-at", "7").returncode == -signal.SIGKILL
    state = checkpoint.read(cut / checkpoint.NAME)
    assert (state.epoch, state.step) == (1, 2)
    done = work(cut, "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert same(weights(cut), weights(kept))
    found = history.read(kept / history.LOG)
    assert trace(history.read(cut / history.LOG)) == trace(found)
    assert {each.processes for each in found.epochs} == {2}


def test_two_processes_stop_together(tmp_path: Path) -> None:
    stopped = work(tmp_path, "--processes", "2", "--signal-at", "7", "--signal", str(int(signal.SIGTERM)))
    assert stopped.stderr.count("Traceback") == 1  # the first process's
    assert "stopped in epoch 2 of 3 after 3 of 5 steps" in stopped.stderr
