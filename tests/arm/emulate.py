"""Run a network compiled for ARM on this machine: its objects are linked into a static program for qemu's user mode.

That shows that the code is right. It says nothing about how fast an ARM core is.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bnncc import compiler, targets
from bnncc.codegen.assemble import assemble
from bnncc.options import Options
from bnncc.runtime import abi
from bnncc.runtime.abi import Team
from bnncc.runtime.array import Array

DEFAULTS = Options()


@dataclass(frozen=True)
class Machine:
    """How to run its programs: the emulator and the oldest core that targets run on, zig's names without and with a C
    library, and options, the registers of a system call's number and first argument, and the numbers of read, write
    and exit."""

    qemu: str
    core: str
    triple: str
    with_libc: str
    options: tuple[str, ...]
    number: str
    argument: str
    read: int
    write: int
    exit: int


MACHINES = {
    "aarch64": Machine(
        "qemu-aarch64-static", "cortex-a53", "aarch64-linux-none", "aarch64-linux-musl", (), "x8", "x", 63, 64, 93
    ),
    "armv7l": Machine(
        "qemu-arm-static",
        "cortex-a9",
        "arm-linux-gnueabihf",
        "arm-linux-musleabihf",
        ("-mcpu=cortex_a9",),
        "r7",
        "r",
        3,
        4,
        1,
    ),
}


def needs_qemu(target: str) -> None:
    """Skip the test if the emulator for `target` is not there."""
    program = MACHINES[targets.find(target).machine].qemu
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


# Functions below by their places in the table of threads.
TEAM = {Team.GOMP_PARALLEL: "team", Team.OMP_GET_THREAD_NUM: "thread", Team.SCHED_YIELD: "yield"}

# No C library: three system calls are all it needs, and nothing is built first.
_MAIN = """
typedef unsigned long size;
extern int {run}({declarations});
extern int {run_threads}(int threads, void *const *table);
static long call(long number, long a, long b, long c) {{
  register long n __asm__("{number}") = number; register long x0 __asm__("{argument}0") = a;
  register long x1 __asm__("{argument}1") = b; register long x2 __asm__("{argument}2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(n), "r"(x1), "r"(x2) : "memory");
  return x0;
}}
static void whole(long number, long file, unsigned char *data, size count) {{
  for (size done = 0; done < count;) {{
    long now = call(number, file, (long)(data + done), count - done);
    if (now <= 0) call({exit}, 3, 0, 0);
    done += now;
  }}
}}
static _Alignas({alignment}) unsigned char arena[{arena} + {alignment}];
{tensors}
/* A team whose threads run one after the other. */
static unsigned running;
static int thread(void) {{ return running; }}
static int yield(void) {{ return 0; }}
static void team(int (*worker)(void *), void *data, unsigned threads, unsigned flags) {{
  for (running = 0; running < threads; running++) worker(data);
}}
void _start(void) {{
  {reads}
  if ({run}({arguments})) call({exit}, 4, 0, 0);
  {writes}
  void *table[] = {{{table}}};
  if ({run_threads}(3, table)) call({exit}, 5, 0, 0);
  {writes}
  call({exit}, 0, 0, 0);
}}
"""


# libgcc's names for what zig's own library calls as the ARM EABI does.
_LIBGCC = """
int __divsi3(int x, int y) { return x / y; }
int __modsi3(int x, int y) { return x % y; }
unsigned __udivsi3(unsigned x, unsigned y) { return x / y; }
unsigned __umodsi3(unsigned x, unsigned y) { return x % y; }
long long __fixsfdi(float x) { return (long long)x; }
long long __fixdfdi(double x) { return (long long)x; }
unsigned long long __fixunssfdi(float x) { return (unsigned long long)x; }
unsigned long long __fixunsdfdi(double x) { return (unsigned long long)x; }
float __floatdisf(long long x) { return (float)x; }
double __floatdidf(long long x) { return (double)x; }
float __floatundisf(unsigned long long x) { return (float)x; }
double __floatundidf(unsigned long long x) { return (double)x; }
"""


def run(model: Path, folder: Path, *inputs: Array, target: str = "arm", options: Options = DEFAULTS) -> list[Array]:
    """The outputs of `model`, compiled for `target` and executed under qemu; three threads that share the work must
    come to the same."""
    chosen = targets.find(target)
    machine = MACHINES[chosen.machine]
    _, program, _ = compiler.lower(model, chosen, options)
    objects, arena = assemble(program, chosen, options)
    names = []
    for number, content in enumerate(objects):
        names.append(f"{number}.o")
        (folder / names[-1]).write_bytes(content)
    tensors = [program.values[name] for name in (*program.inputs, *program.outputs)]
    sizes, split = [str(value.size) for value in tensors], len(program.inputs)
    arguments = abi.arguments([f"t{i}" for i in range(split)], [f"t{i}" for i in range(split, len(tensors))], "arena")
    source = _MAIN.format(
        run=abi.RUN,
        run_threads=abi.RUN_THREADS,
        alignment=abi.ALIGNMENT,
        declarations=", ".join(["void *"] * len(arguments)),
        table=", ".join([*(function for _, function in sorted(TEAM.items())), *arguments]),
        arena=arena,
        number=machine.number,
        argument=machine.argument,
        exit=machine.exit,
        tensors="\n".join(
            f"static _Alignas({abi.ALIGNMENT}) unsigned char t{i}[{size}];" for i, size in enumerate(sizes)
        ),
        reads=" ".join(f"whole({machine.read}, 0, t{i}, {size});" for i, size in enumerate(sizes[:split])),
        arguments=", ".join(arguments),
        writes=" ".join(f"whole({machine.write}, 1, t{i + split}, {size});" for i, size in enumerate(sizes[split:])),
    )
    (folder / "main.c").write_text(source)
    flags = [
        "-target",
        machine.triple,
        *machine.options,
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-O1",
        "-static",
    ]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, "-fno-stack-protector", "-o", "net", "main.c"]
    linked = subprocess.run([*command, *names], cwd=folder, capture_output=True, text=True, check=False)
    if "undefined symbol" in linked.stderr:  # of libm or libgcc: begin where a C library begins
        more = _LIBGCC if chosen.machine == "armv7l" else ""
        (folder / "main.c").write_text(source.replace("void _start(void)", "int main(void)") + more)
        flags = ["-target", machine.with_libc, *machine.options, "-fno-stack-protector", "-O1", "-static"]
        command = [sys.executable, "-m", "ziglang", "cc", *flags, "-o", "net", "main.c"]
        linked = subprocess.run([*command, *names], cwd=folder, capture_output=True, text=True, check=False)
    assert linked.returncode == 0, linked.stderr
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
    core = "cortex-a76" if "asimddp" in chosen.features else machine.core
    done = subprocess.run(
        [machine.qemu, "-cpu", core, "./net"], cwd=folder, input=data, check=True, capture_output=True
    )
    outputs, at = [], 0
    for value in tensors[split:]:
        outputs.append(np.frombuffer(done.stdout[at : at + value.size], value.dtype).reshape(value.shape))
        at += value.size
    assert done.stdout[:at] == done.stdout[at:]
    return outputs
