"""Run a network compiled for ARM on this machine: its objects are linked into a static program for qemu's user mode.

That shows that the code is right. It says nothing about how fast an ARM core is.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bnncc import compiler, targets
from bnncc.build.assemble import assemble

Array = npt.NDArray[Any]

QEMU = "qemu-aarch64-static"
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")

# No C library: the system calls read (63), write (64) and exit (93) are all it needs, and nothing is built first.
_MAIN = """
typedef unsigned long size;
extern int bnncc_run({declarations}, void *arena);
static long call(long number, long a, long b, long c) {{
  register long x8 __asm__("x8") = number; register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b; register long x2 __asm__("x2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}}
static void whole(long number, long file, unsigned char *data, size count) {{
  for (size done = 0; done < count;) {{
    long now = call(number, file, (long)(data + done), count - done);
    if (now <= 0) call(93, 3, 0, 0);
    done += now;
  }}
}}
static _Alignas(64) unsigned char arena[{arena} + 64];
{tensors}
void _start(void) {{
  {reads}
  if (bnncc_run({arguments}, arena)) call(93, 4, 0, 0);
  {writes}
  call(93, 0, 0, 0);
}}
"""


def run(model: Path, folder: Path, *inputs: Array, target: str = "arm") -> list[Array]:
    """The outputs of `model`, compiled for `target` and executed under qemu."""
    chosen = targets.find(target)
    _, program, _ = compiler.lower(model, chosen)
    objects, arena = assemble(program, chosen)
    names = []
    for number, content in enumerate(objects):
        names.append(f"{number}.o")
        (folder / names[-1]).write_bytes(content)
    tensors = [program.values[name] for name in (*program.inputs, *program.outputs)]
    sizes, split = [str(value.size) for value in tensors], len(program.inputs)
    source = _MAIN.format(
        declarations=", ".join(["void *"] * len(tensors)),
        arena=arena,
        tensors="\n".join(f"static _Alignas(64) unsigned char t{i}[{size}];" for i, size in enumerate(sizes)),
        reads=" ".join(f"whole(63, 0, t{i}, {size});" for i, size in enumerate(sizes[:split])),
        arguments=", ".join(f"t{i}" for i in range(len(tensors))),
        writes=" ".join(f"whole(64, 1, t{i + split}, {size});" for i, size in enumerate(sizes[split:])),
    )
    (folder / "main.c").write_text(source)
    options = ["-target", "aarch64-linux-none", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1", "-static"]
    command = [sys.executable, "-m", "ziglang", "cc", *options, "-o", "net", "main.c"]
    linked = subprocess.run([*command, *names], cwd=folder, capture_output=True, text=True, check=False)
    assert linked.returncode == 0, linked.stderr
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
    done = subprocess.run([QEMU, "./net"], cwd=folder, input=data, check=True, capture_output=True)
    outputs, at = [], 0
    for value in tensors[split:]:
        outputs.append(np.frombuffer(done.stdout[at : at + value.size], value.dtype).reshape(value.shape))
        at += value.size
    assert at == len(done.stdout)
    return outputs
