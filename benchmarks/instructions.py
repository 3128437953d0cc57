"""How many instructions a network compiled for ARM executes, counted by qemu on this machine.

qemu's user mode logs the blocks of instructions that it translates and each block that it runs; no board is needed,
and the number is exact. It says nothing about time: an instruction is not a cycle.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc import compiler, targets
from bnncc.codegen.assemble import assemble
from bnncc.codegen.llvm import compile_object
from bnncc.options import Options
from bnncc.runtime import abi
from bnncc.targets.target import Target

QEMU = {"aarch64": "qemu-aarch64-static", "armv7l": "qemu-arm-static"}

# Entry of a static program: arguments, the call, exit(its result). Buffers are zeros, which costs no time to make.
_START = {
    "aarch64": ("ldr x{n}, =b{n}", f"bl {abi.RUN}\nmov x8, #93\nsvc #0"),
    "armv7l": ("ldr r{n}, =b{n}", f"bl {abi.RUN}\nmov r7, #1\nsvc #0"),
}
_REGISTERS = {"aarch64": 8, "armv7l": 4}


def missing(target: Target) -> str:
    """Why nothing can be counted for `target`; empty if it can."""
    program = QEMU.get(target.machine, "")
    return "" if program and shutil.which(program) else f"{program or 'an emulator'} is not installed"


def count(model: Path, target: Target) -> int:
    """Instructions of one inference of the ONNX file `model`, the few around it included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _link(model, target, folder)
        return _run(folder / "net", target)


def _link(model: Path, target: Target, folder: Path) -> None:
    _, program, _ = compiler.lower(model, targets.find(target.name), Options())
    objects, arena = assemble(program, target, Options())
    sizes = [program.values[name].size for name in (*program.inputs, *program.outputs)] + [arena]
    if len(sizes) > _REGISTERS[target.machine]:
        raise ValueError(f"{model}: {len(sizes)} arguments do not fit the registers")
    load, rest = _START[target.machine]
    code = ".globl _start\n_start:\n" + "\n".join(load.format(n=n) for n in range(len(sizes))) + f"\n{rest}\n"
    code += ".ltorg\n" + "\n".join(f".comm b{n},{max(size, 1)},64" for n, size in enumerate(sizes))
    text = "\n".join(f'module asm "{line}"' for line in code.splitlines())
    for number, content in enumerate([*objects, compile_object({"unused": _nothing()}, target, imports=text)]):
        (folder / f"{number}.o").write_bytes(content)
    names = [f"{number}.o" for number in range(len(objects) + 1)]
    command = [sys.executable, "-m", "ziglang", "ld.lld", "-static", "-e", "_start", "-o", "net", *names]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _nothing() -> tirx.PrimFunc:
    with IRBuilder() as ib, T.prim_func():
        T.evaluate(T.int32(0))
    return ib.get()


def _run(program: Path, target: Target) -> int:
    """Sum over executed blocks of their instructions, from qemu's log."""
    command = [QEMU[target.machine], "-d", "in_asm,exec,nochain", str(program)]
    sizes: dict[str, int] = {}
    block, total = "", 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
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
        raise RuntimeError(f"{command[0]}: exit code {process.returncode}")
    return total
