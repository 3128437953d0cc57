"""Networks as static programs: their objects linked with zig, run under qemu's user mode for ARM, under valgrind here.

That shows that the code is right, and how many instructions it takes. It says nothing about how fast an ARM core is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnncc import compiler
from bnncc.codegen.assemble import assemble
from bnncc.options import Options
from bnncc.runtime import abi
from bnncc.runtime.abi import Team
from bnncc.runtime.array import Array
from bnncc.runtime.errors import OptionError
from bnncc.targets.target import Target


@dataclass(frozen=True)
class Machine:
    """How to run its programs: the emulator ("" for none) and the oldest core that targets run on, zig's names without
    and with a C library, and options, a system call in C of number, a, b and c, and the numbers of read, write and
    exit."""

    qemu: str
    core: str
    triple: str
    with_libc: str
    options: tuple[str, ...]
    call: str
    read: int
    write: int
    exit: int


def _arm_call(number: str, argument: str) -> str:
    return f"""
  register long n __asm__("{number}") = number; register long x0 __asm__("{argument}0") = a;
  register long x1 __asm__("{argument}1") = b; register long x2 __asm__("{argument}2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(n), "r"(x1), "r"(x2) : "memory");
  return x0;"""


_X86_CALL = """
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;"""

MACHINES = {
    "aarch64": Machine(
        "qemu-aarch64-static",
        "cortex-a53",
        "aarch64-linux-none",
        "aarch64-linux-musl",
        (),
        _arm_call("x8", "x"),
        63,
        64,
        93,
    ),
    "armv7l": Machine(
        "qemu-arm-static",
        "cortex-a9",
        "arm-linux-gnueabihf",
        "arm-linux-musleabihf",
        ("-mcpu=cortex_a9",),
        _arm_call("r7", "r"),
        3,
        4,
        1,
    ),
    "x86_64": Machine("", "", "x86_64-linux-none", "x86_64-linux-musl", (), _X86_CALL, 0, 1, 60),
}


def missing(target: Target) -> str:
    """Why programs for `target` cannot run here; "" if they can."""
    machine = MACHINES.get(target.machine)
    if machine is None:
        return f"there is no emulator for {target.machine}"
    if machine.qemu and shutil.which(machine.qemu) is None:
        return f"{machine.qemu} is not installed; apt install qemu-user-static"
    return ""


# Functions below by their places in the table of threads.
TEAM = {Team.GOMP_PARALLEL: "team", Team.OMP_GET_THREAD_NUM: "thread", Team.SCHED_YIELD: "yield"}

# No C library: three system calls are all it needs, and nothing is built first.
_MAIN = """
typedef unsigned long size;
extern int {run}({declarations});
extern int {run_threads}(int threads, void *const *table);
static long call(long number, long a, long b, long c) {{
{call}
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
#ifdef __x86_64__
__attribute__((force_align_arg_pointer)) /* a process begins with its stack aligned, a function does not */
#endif
void _start(void) {{
  {body}
  call({exit}, 0, 0, 0);
}}
"""
# With the data, and again on three threads.
_RUN = """{reads}
  if ({run}({arguments})) call({exit}, 4, 0, 0);
  {writes}
  void *table[] = {{{table}}};
  if ({run_threads}(3, table)) call({exit}, 5, 0, 0);
  {writes}"""
# Once, on zeros, to be counted: nothing else that takes instructions.
_COUNT = "if ({run}({arguments})) call({exit}, 4, 0, 0);"


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


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    size: int


class Program:
    """A network compiled for `target` and linked in `folder`, which outlives it.

    counted: the program runs the network once on zeros and does nothing else. Raises ModelError as compiling does,
    OptionError where the program cannot run here.
    """

    def __init__(
        self,
        model: compiler.Source,
        target: Target,
        folder: Path,
        options: Options | None = None,
        *,
        counted: bool = False,
    ) -> None:
        if reason := missing(target):
            raise OptionError(f"target {target.name!r} cannot be run here: {reason}")
        options = options or Options()
        self.machine, self.path = MACHINES[target.machine], folder / "net"
        core = "cortex-a76" if "asimddp" in target.features else self.machine.core
        self.command = [self.machine.qemu, "-cpu", core, str(self.path)] if self.machine.qemu else [str(self.path)]
        imported, program, _ = compiler.lower(model, target, options)
        objects, arena = assemble(program, target, options)
        names = []
        for number, content in enumerate(objects):
            names.append(f"{number}.o")
            (folder / names[-1]).write_bytes(content)
        values = [program.values[name] for name in (*program.inputs, *program.outputs)]
        tensors = [_Tensor(value.shape, value.dtype, value.size) for value in values]
        split = len(program.inputs)
        self.inputs = dict(zip(imported.inputs, tensors[:split], strict=True))
        self.outputs = tensors[split:]
        self._names = imported.outputs
        source = _source(self.machine, tensors, split, arena, counted=counted)
        _link(self.machine, folder, source, names, _LIBGCC if target.machine == "armv7l" else "")

    def run(self, *inputs: Array) -> list[Array]:
        """The outputs. Three threads that share the work must come to the same: RuntimeError if they do not."""
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
        done = subprocess.run(self.command, input=data, check=True, capture_output=True)
        outputs, at = [], 0
        for tensor in self.outputs:
            outputs.append(np.frombuffer(done.stdout[at : at + tensor.size], tensor.dtype).reshape(tensor.shape))
            at += tensor.size
        if done.stdout[:at] != done.stdout[at:]:
            raise RuntimeError("three threads compute something else than one: a bug in the compiled library")
        return outputs

    def run_named(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        return dict(zip(self._names, self.run(*(inputs[name] for name in self.inputs)), strict=True))


def _source(machine: Machine, tensors: Sequence[_Tensor], split: int, arena: int, *, counted: bool) -> str:
    """The program around the network, in C."""
    sizes = [max(tensor.size, 1) for tensor in tensors]
    arguments = abi.arguments([f"t{i}" for i in range(split)], [f"t{i}" for i in range(split, len(tensors))], "arena")
    reads = [f"whole({machine.read}, 0, t{i}, {tensor.size});" for i, tensor in enumerate(tensors[:split])]
    writes = [f"whole({machine.write}, 1, t{i + split}, {tensor.size});" for i, tensor in enumerate(tensors[split:])]
    parts = {
        "run": abi.RUN,
        "run_threads": abi.RUN_THREADS,
        "exit": machine.exit,
        "arguments": ", ".join(arguments),
        "table": ", ".join([*(function for _, function in sorted(TEAM.items())), *arguments]),
        "reads": " ".join(reads),
        "writes": " ".join(writes),
    }
    return _MAIN.format(
        **parts,
        body=(_COUNT if counted else _RUN).format(**parts),
        alignment=abi.ALIGNMENT,
        declarations=", ".join(["void *"] * len(arguments)),
        arena=arena,
        call=machine.call,
        tensors="\n".join(
            f"static _Alignas({abi.ALIGNMENT}) unsigned char t{i}[{size}];" for i, size in enumerate(sizes)
        ),
    )


def _link(machine: Machine, folder: Path, source: str, objects: Sequence[str], libgcc: str) -> None:
    (folder / "main.c").write_text(source)
    compile_c = [sys.executable, "-m", "ziglang", "cc", *machine.options, "-fno-stack-protector", "-O1", "-static"]
    files = ["-o", "net", "main.c", *objects]
    alone = ["-target", machine.triple, "-nostdlib", "-ffreestanding"]
    linked = subprocess.run([*compile_c, *alone, *files], cwd=folder, capture_output=True, text=True, check=False)
    if "undefined symbol" in linked.stderr:  # of libm or libgcc: begin where a C library begins
        (folder / "main.c").write_text(source.replace("void _start(void)", "int main(void)") + libgcc)
        command = [*compile_c, "-target", machine.with_libc, *files]
        linked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if linked.returncode:
        raise RuntimeError(f"the program cannot be linked: {linked.stderr[-500:]}")
