"""What a target declares and what its code contains: every instruction of every kind of object is assembled again by an
assembler that knows the declared features and no more."""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnncc import compiler
from bnncc.codegen import peak
from bnncc.codegen.assemble import assemble
from bnncc.codegen.link import link
from bnncc.codegen.llvm import compile_object
from bnncc.options import Options
from bnncc.runtime import abi
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from tests.kernels.test_arm import KERNELS
from tests.onnxmodels import model, node

# The assemblers' names of features that /proc/cpuinfo calls otherwise.
NAMES = {
    "sse4_1": "sse4.1", "sse4_2": "sse4.2", "bmi1": "bmi", "abm": "lzcnt",
    "asimd": "neon", "asimddp": "dotprod", "atomics": "lse",
}  # fmt: skip
TRIPLES = {"armv7l": "armv7-linux-gnueabihf"}
# Where a branch goes to is an address there and would be a distance here; all of them are every machine's.
BRANCH = re.compile(r"^(b|bl|blx|bx|cb|tb|j|call|adr)", re.ASCII)


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    for tool in ("llvm-objdump", "llvm-mc", "as"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def undeclared(objects: list[bytes], target: Target, folder: Path) -> set[str]:
    """Instructions that the declared features do not allow, each with what the assembler says."""
    triple = TRIPLES.get(target.machine, target.triple)
    found: set[str] = set()
    for content in objects:
        (folder / "object.o").write_bytes(content)
        command = ["llvm-objdump", "-d", "--no-show-raw-insn", "--no-leading-addr", f"--triple={triple}", "object.o"]
        everything = ["--mattr=+v8.2a,+dotprod"] if target.machine == "aarch64" else []
        if target.machine == "armv7l":
            everything = ["--mattr=+neon,+vfp4,+hwdiv,+hwdiv-arm"]
        done = subprocess.run([*command, *everything], cwd=folder, capture_output=True, text=True, check=True)
        assert "<unknown>" not in done.stdout
        for line in done.stdout.splitlines():
            text = line.split("//")[0].split("@ ")[0].split("# ")[0].split("<")[0].strip()
            if line.startswith(("\t", " ")) and not BRANCH.match(text) and ".word" not in text:
                found.add(text)
    assert len(found) > 10
    (folder / "all.s").write_text("\n".join(sorted(found)) + "\n")
    features = [NAMES.get(feature, feature) for feature in target.features]
    # LLVM's assembler for x86 takes everything.
    command = ["as", f"-march={'+'.join(['generic64', *features])}", "-o", "/dev/null", "all.s"]
    if target.machine != "x86_64":
        allowed = ",".join(f"+{feature}" for feature in features)
        command = ["llvm-mc", f"--triple={triple}", f"--mattr={allowed}", "--filetype=null", "all.s"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return set(re.findall(r"[Ee]rror: .*(?:\n.*)?", done.stderr))


def other_operators() -> bytes:
    """What TVM's loops compute: integers divided, rounded, compared; images resized; exponentials."""
    constants = {"zero": np.zeros(1, np.float32), "two": np.array([2], np.float32), "three": np.array([3], np.int32)}
    nodes = [
        node("Softmax", ["x"], "s", axis=1),
        node("Sigmoid", ["s"], "g"),
        node("Floor", ["g"], "f"),
        node("Cast", ["f"], "i", to=6),
        node("Div", ["i", "three"], "d"),
        node("Cast", ["d"], "l", to=7),
        node("Cast", ["l"], "m", to=1),
        node("Pow", ["m", "two"], "p"),
        node("Greater", ["p", "zero"], "h"),
        node("Cast", ["h"], "y", to=1),
    ]
    content: bytes = model(nodes, constants, (1, 8, 6, 6)).SerializeToString()
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_every_kind_of_kernel(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    objects = [
        compile_object({"kernel": kernel.build(epilogue, target, kernel.default(target))}, target)
        for kernel, epilogue, _ in KERNELS
    ]
    assert undeclared([*objects, compile_object({"peak": peak.build(target)}, target)], target, tmp_path) == set()


@pytest.mark.parametrize("network", ["digits_net", "bireal_resnet20", "other operators"])
@pytest.mark.parametrize("name", TARGETS)
def test_networks_and_their_entry_points(
    name: str, network: str, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    source = other_operators() if network == "other operators" else exported(network)
    _, program, _ = compiler.lower(source, TARGETS[name], Options())
    objects, _ = assemble(program, TARGETS[name], Options())
    assert undeclared(objects, TARGETS[name], tmp_path) == set()
    # What it has no instruction for, its libraries have.
    assert link(objects, TARGETS[name], abi.exports(peaks=False))


def test_what_is_not_declared_is_found(tmp_path: Path) -> None:
    """The comparison itself: code of a larger machine is none of a smaller one."""
    division = dataclasses.replace(TARGETS["armv7"], attributes=("+neon",))
    for larger, smaller in (
        (TARGETS["x86-avx512"], "x86-avx2"),
        (TARGETS["x86-avx512"], "x86-avx512bw"),
        (TARGETS["x86-avx2"], "x86"),
        (TARGETS["rpi5"], "arm"),
        (division, "armv7"),
    ):
        _, program, _ = compiler.lower(other_operators(), larger, Options())
        objects, _ = assemble(program, larger, Options(peaks=True))
        assert undeclared(objects, TARGETS[smaller], tmp_path), larger.name
