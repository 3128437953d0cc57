"""The wheel does what the checkout does: in an environment with numpy alone it runs, on another Python it compiles.

One other Python, the newest at hand; the workflow has a job for each.

These tests install from the package index that pip is set up with, and skip where it cannot be reached.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bnncc

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NETWORK = ROOT / "tests" / "gate" / "digits.onnx"
SOURCES = ("bnncc", "passes", "targets", "pyproject.toml", "README.md", "LICENSE")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")  # those that TVM has a wheel for
Install = Callable[..., Path]


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    try:
        pip("download", "--no-deps", "--dest", folder / "reached", "setuptools>=77")
    except AssertionError as error:
        pytest.skip(f"no package index: {str(error).splitlines()[0]}")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    pip("wheel", "--no-deps", "--wheel-dir", folder / "dist", folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture
def install() -> Iterator[Install]:
    """install(python, requirement, ...) -> the interpreter of an environment with these and nothing else, which is
    gone after the test."""
    with tempfile.TemporaryDirectory() as folder:

        def environment(python: str, *requirements: str | Path) -> Path:
            subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
            interpreter = Path(folder, "bin", "python")
            pip("--python", interpreter, "install", "--no-compile", "--only-binary", ":all:", *requirements)
            return interpreter

        yield environment


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[Any]]:
    """The artifact that this environment makes of the stored network, and its scores here."""
    path = tmp_path_factory.mktemp("digits") / "digits.bnn"
    bnncc.compile(NETWORK).save(path)
    (y,) = bnncc.load(path).run(np.load(HERE / "digits.npz")["x"]).values()
    return path, y


def run(interpreter: Path, *arguments: str | Path) -> str:
    """What the command prints, started away from the checkout."""
    command = [str(interpreter), *map(str, arguments)]
    done = subprocess.run(command, cwd=interpreter.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def find_python(version: str) -> str | None:
    """An interpreter of that version: this one, one on the PATH, or one of pyenv's."""
    found = [sys.executable, shutil.which(f"python{version}")]
    found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    ask = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))"
    for python in filter(None, found):
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return python
    return None


@pytest.mark.parametrize("numpy", ["1.24.4", "2"], ids="numpy-{}".format)
def test_runs_with_numpy_alone(
    numpy: str, wheel: Path, install: Install, digits: tuple[Path, npt.NDArray[Any]], tmp_path: Path
) -> None:
    python = find_python("3.11")
    if python is None:
        pytest.skip("no Python 3.11 at hand")  # the last that numpy 1.24 has a wheel for
    interpreter = install(python, wheel, f"numpy~={numpy}" if "." in numpy else f"numpy=={numpy}.*")
    listed = ["-c", "import importlib.metadata as m; print(*sorted({d.name for d in m.distributions()}))"]
    assert run(interpreter, *listed).split() == ["bnncc", "numpy"]
    path, scores = digits
    assert f"numpy {numpy}" in run(interpreter, HERE / "run_digits.py", path, tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").tobytes() == scores.tobytes()


def test_compiles_and_runs(
    wheel: Path, install: Install, digits: tuple[Path, npt.NDArray[Any]], tmp_path: Path
) -> None:
    python = next(filter(None, map(find_python, reversed(PYTHONS))), sys.executable)
    interpreter = install(python, f"{wheel}[compile]", "--constraint", ROOT / "constraints.txt")
    made = tmp_path / "digits.bnn"
    run(interpreter, "-m", "bnncc", "compile", NETWORK, "--target", "native", "--no-cache", "-o", made)
    run(interpreter, HERE / "run_digits.py", made, tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").tobytes() == digits[1].tobytes()
