"""Objects -> one shared library, by LLVM's linker as the ziglang package carries it (any host, any target)."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.codegen.llvm import compile_object
from bnncc.targets.target import Target

# What a network may ask the machine's own libm for, when it uses operators beyond arithmetic (softmax, tanh, ...).
_LIBM_FLOAT = (
    "acosf", "acoshf", "asinf", "asinhf", "atan2f", "atanf", "atanhf", "ceilf", "cosf", "coshf", "erff", "exp2f",
    "expf", "floorf", "fmodf", "log10f", "log1pf", "log2f", "logf", "nearbyintf", "powf", "rintf", "roundf", "sinf",
    "sinhf",
    "tanf", "tanhf", "truncf",
)  # fmt: skip
# The same for float64.
_LIBM = (*_LIBM_FLOAT, *(name.removesuffix("f") for name in _LIBM_FLOAT))


def link(objects: list[bytes], target: Target, exports: tuple[str, ...]) -> bytes:
    """A stripped shared library that exports `exports` only. It needs no other library, but for the machine's libm
    if one of `objects` calls one of its functions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"{number}.o" for number in range(len(objects))]
        for file, content in zip(names, objects, strict=True):
            (folder / file).write_bytes(content)
        (folder / "exports").write_text("{ global: " + "; ".join(exports) + "; local: *; };")
        (folder / "libm.o").write_bytes(_libm_stub(target))
        # The stand-in only tells the linker which names libm.so.6 has; the machine that runs it brings the real one.
        _lld(folder, "-shared", "-soname=libm.so.6", "-o", "libm.so", "libm.o")
        _lld(
            folder, "-shared", "--no-undefined", "--gc-sections", "--strip-all", "--build-id=none", "-z", "noexecstack",
            "-z", "relro", "-z", "now", "--version-script=exports",
            "-o", "library.so", *names, "--as-needed", "libm.so",
        )  # fmt: skip
        return (folder / "library.so").read_bytes()


def _lld(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "ziglang", "ld.lld", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the linker failed: {done.stderr.strip()}")


def _libm_stub(target: Target) -> bytes:
    """An object that defines the names of libm's functions, and nothing that is ever run."""
    with IRBuilder() as ib, T.prim_func():
        T.evaluate(0)
    return compile_object(dict.fromkeys(_LIBM, ib.get()), target)
