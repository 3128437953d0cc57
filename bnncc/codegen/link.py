"""Objects -> one shared library, by LLVM's linker as the ziglang package carries it (any host, any target)."""

import subprocess
import tempfile
from pathlib import Path

import ziglang
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
# What 32-bit ARM has no instruction for: integers divided, 64-bit ones shifted, and converted from and to real numbers.
_LIBGCC = (
    "__fixsfdi", "__fixdfdi", "__fixunssfdi", "__fixunsdfdi", "__floatdisf", "__floatdidf", "__floatundisf",
    "__floatundidf", "__divdi3", "__udivdi3", "__moddi3", "__umoddi3", "__muldi3", "__ashldi3", "__ashrdi3",
    "__lshrdi3",
    "__divsi3", "__udivsi3", "__modsi3", "__umodsi3",
    "__aeabi_idiv", "__aeabi_uidiv", "__aeabi_idivmod", "__aeabi_uidivmod",
    "__aeabi_ldivmod", "__aeabi_uldivmod", "__aeabi_lmul", "__aeabi_llsl", "__aeabi_lasr", "__aeabi_llsr",
    "__aeabi_f2lz", "__aeabi_d2lz", "__aeabi_f2ulz", "__aeabi_d2ulz", "__aeabi_l2f", "__aeabi_l2d", "__aeabi_ul2f",
    "__aeabi_ul2d",
)  # fmt: skip
# A library of the machine that runs the artifact -> the functions of it that may be called.
_LIBRARIES = {"libm.so.6": _LIBM, "libgcc_s.so.1": _LIBGCC}


def link(objects: list[bytes], target: Target, exports: tuple[str, ...]) -> bytes:
    """A stripped shared library that exports `exports` only. It needs no other library, but for the machine's libm
    and libgcc if one of `objects` calls one of their functions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"{number}.o" for number in range(len(objects))]
        for file, content in zip(names, objects, strict=True):
            (folder / file).write_bytes(content)
        (folder / "exports").write_text("{ global: " + "; ".join(exports) + "; local: *; };")
        for library, functions in _LIBRARIES.items():
            # A stand-in tells the linker which names the library has; the machine that runs it brings the real one.
            (folder / "stub.o").write_bytes(_stub(functions, target))
            _lld(folder, "-shared", f"-soname={library}", "-o", library, "stub.o")
        _lld(
            folder, "-shared", "--no-undefined", "--gc-sections", "--strip-all", "--build-id=none", "-z", "noexecstack",
            # Its own functions call one another whatever else the process has loaded under the same names.
            "-z", "relro", "-z", "now", "-Bsymbolic", "--version-script=exports",
            "-o", "library.so", *names, "--as-needed", *_LIBRARIES,
        )  # fmt: skip
        return (folder / "library.so").read_bytes()


def _lld(folder: Path, *arguments: str) -> None:
    # By the package's own path: sys.executable may be any program that Python runs inside.
    linker = Path(ziglang.__file__).with_name("zig")
    done = subprocess.run([linker, "ld.lld", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the linker failed: {done.stderr.strip()}")


def _stub(functions: tuple[str, ...], target: Target) -> bytes:
    """An object that defines the names of functions, and nothing that is ever run."""
    with IRBuilder() as ib, T.prim_func():
        T.evaluate(0)
    return compile_object(dict.fromkeys(functions, ib.get()), target)
