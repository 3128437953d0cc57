"""How many instructions one inference executes.

For ARM qemu's user mode logs the blocks of instructions that it translates and each block that it runs; no board is
needed, and the number is exact, the few instructions around the network included. For x86 valgrind's callgrind counts
inside the entry function alone. It says nothing about time: an instruction is not a cycle.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bnncc import compiler, targets
from bnncc.options import Options
from bnncc.runtime import abi
from bnncc.runtime.errors import OptionError
from bnncc.targets.target import Target
from bnncc.verify import emulate

# valgrind knows no AVX-512.
COUNTED_X86 = "x86-avx2"


def counted_target(target: Target) -> Target:
    """The target whose code is counted for `target`."""
    return target if target.machine != "x86_64" or target.name == "x86" else targets.find(COUNTED_X86)


def missing(target: Target) -> str:
    """Why nothing can be counted for `target`; "" if it can."""
    if target.machine == "x86_64":
        return "" if shutil.which("valgrind") else "valgrind is not installed; apt install valgrind"
    return emulate.missing(target)


def count(model: compiler.Source, target: Target, options: Options | None = None) -> int:
    """Instructions of one inference of the ONNX file `model`, of zeros. OptionError: they cannot be counted here."""
    if reason := missing(target):
        raise OptionError(f"instructions of target {target.name!r}: {reason}")
    with tempfile.TemporaryDirectory() as name:
        program = emulate.Program(model, counted_target(target), Path(name), options, counted=True)
        if not program.machine.qemu:
            return _callgrind(program.path)
        return _qemu(program.command)


def _callgrind(program: Path) -> int:
    command = ["valgrind", "--tool=callgrind", f"--toggle-collect={abi.RUN}", "--callgrind-out-file=/dev/null"]
    done = subprocess.run([*command, str(program)], capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"valgrind: exit code {done.returncode}: {done.stderr[-300:]}")
    return int(found[1])


def _qemu(command: Sequence[str]) -> int:
    """Sum over executed blocks of their instructions, from qemu's log."""
    emulator, *arguments = command
    sizes: dict[str, int] = {}
    block, total = "", 0
    with subprocess.Popen(
        [emulator, "-d", "in_asm,exec,nochain", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Trace "):
                match = re.search(r"\[\w+/0*(\w+)/", line)
                total += sizes.get(match[1], 0) if match else 0
            elif line.startswith("IN:"):
                block = ""
            elif line.startswith("0x"):
                address = line[2 : line.index(":")].lstrip("0")
                if not block:
                    block, sizes[address] = address, 0
                sizes[block] += 1
    if process.returncode:
        raise RuntimeError(f"{emulator}: exit code {process.returncode}")
    return total
