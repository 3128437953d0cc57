"""bnncc doctor."""

import dataclasses
import importlib
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import click

from bnncc.cli import output
from bnncc.runtime.errors import OptionError

# As in pyproject.toml; a test holds the two together.
PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1", "ziglang": "0.17.0"}


@dataclass(frozen=True)
class Check:
    """One thing looked at: `todo` is "" where nothing has to be done."""

    name: str
    ok: bool
    found: str
    needed_for: str
    todo: str = ""


@click.command()
@output.json_option
def command(json_file: str | None) -> None:
    """Check what is installed here, and what is missing.

    Each line says what to do. Ends with exit code 1 only if compiling cannot work.

    \b
    Example:
      bnncc doctor
    """
    checks = list(_checks())
    broken = [check.name for check in checks if not check.ok and check.needed_for == "compile"]

    def tables() -> None:
        rows = [["ok" if c.ok else "missing", c.name, c.found, c.needed_for, c.todo] for c in checks]
        output.table("", ["", "part", "found", "needed for", "what to do"], rows)

    output.show([dataclasses.asdict(check) for check in checks], json_file, tables)
    if broken:
        raise OptionError(f"compiling cannot work without {', '.join(broken)}; pip install 'bnncc[compile]'")


def _checks() -> Iterator[Check]:
    from bnncc import targets
    from bnncc.runtime import cpu

    ok = sys.version_info >= (3, 11)
    yield Check("python", ok, platform.python_version(), "compile", "" if ok else "use Python 3.11 or newer")
    yield _package("numpy", "run", "numpy")
    yield _package("apache-tvm", "compile", "bnncc[compile]", module="tvm")
    yield _package("apache-tvm-ffi", "compile", "bnncc[compile]")
    yield _package("onnx", "compile", "bnncc[compile]")
    yield _package("ziglang", "compile", "bnncc[compile]")
    yield _package("torch", "train, export", "bnncc[train]")
    yield _package("lightning-fabric", "train", "bnncc[train]")
    yield _package("onnxscript", "export", "bnncc[train]")
    yield _package("onnxruntime", "baseline", "bnncc[verify]")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    todo = "" if qemu else "apt install qemu-user-static"
    yield Check("qemu-aarch64", qemu is not None, qemu or "not found", "tests of ARM code", todo)
    yield Check("cpu", True, f"{cpu.model_name()}, {cpu.machine()}, {len(cpu.features())} features", "run")
    try:
        yield Check("best target", True, targets.find("native").name, "run")
    except OptionError as error:
        yield Check("best target", False, "none", "run", str(error))


def _package(name: str, needed_for: str, extra: str, *, module: str | None = None) -> Check:
    """Installed, of the pinned version where there is a pin, and importable where `module` is given."""
    install = f"pip install '{extra}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, False, "not installed", needed_for, install)
    pin = PINS.get(name, version)
    if version != pin:
        return Check(name, False, f"{version}, needed is {pin}", needed_for, f"pip install {name}=={pin}")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken install raises is what we want to show
            return Check(name, False, f"{version}, import fails: {type(error).__name__}", needed_for, install)
    return Check(name, True, version, needed_for)
