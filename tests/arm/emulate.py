"""Run a network compiled for ARM on this machine, and skip where it cannot be."""

from pathlib import Path

import pytest

from bnncc import targets
from bnncc.options import Options
from bnncc.runtime.array import Array
from bnncc.verify import emulate


def needs_qemu(target: str) -> None:
    """Skip the test if the emulator for `target` is not there."""
    if reason := emulate.missing(targets.find(target)):
        pytest.skip(reason)


def run(model: Path, folder: Path, *inputs: Array, target: str = "arm", options: Options | None = None) -> list[Array]:
    """The outputs of `model`, compiled for `target` and executed under qemu."""
    return emulate.Program(model, targets.find(target), folder, options).run(*inputs)
