"""Objects -> one shared library, by LLVM's linker as the ziglang package carries it (any host, any target)."""

import subprocess
import sys
import tempfile
from pathlib import Path

EXPORTS = ("bnncc_run", "bnncc_step", "bnncc_peak")


def link(objects: list[bytes], exports: tuple[str, ...] = EXPORTS) -> bytes:
    """A stripped shared library that exports `exports` only and needs no other library."""
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for number, content in enumerate(objects):
            path = Path(folder) / f"{number}.o"
            path.write_bytes(content)
            names.append(path.name)
        (Path(folder) / "exports").write_text("{ global: %s; local: *; };" % "; ".join(exports))
        command = [
            sys.executable, "-m", "ziglang", "ld.lld", "-shared", "--no-undefined", "--gc-sections", "--strip-all",
            "--build-id=none", "-z", "noexecstack", "-z", "relro", "-z", "now", "--version-script=exports", "-o", "library.so", *names,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the linker failed: {done.stderr.strip()}")
        return (Path(folder) / "library.so").read_bytes()
