"""The innermost loop of a kernel in LLVM's assembly, and how fast llvm-mca thinks a core runs it.

llvm-mca knows the pipes and latencies that LLVM schedules for; caches, branches and what LLVM's authors did not know it
leaves out. What it says is modelled, not measured.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass

TOOL = "llvm-mca"
_ITERATIONS = 400
_LABEL = re.compile(r"^(\.L\w+):")
_BRANCH = re.compile(r"^\t(?:b\.?\w*|cbn?z|tbn?z)\s+(?:.*\s)?(\.L\w+)$")
_COUNT = re.compile(r"^\tv?cnt(?:\.8)?\s+(\w+)(?:\.(\w+))?")


@dataclass(frozen=True)
class HotLoop:
    """Instructions of one iteration; macs: binary multiply-accumulates in it, 8 for each byte that cnt counts."""

    instructions: tuple[str, ...]
    macs: int

    @property
    def spills(self) -> int:
        """Instructions that read or write the stack."""
        return sum("[sp" in line for line in self.instructions)


def find(assembly: str) -> HotLoop:
    """The innermost loop with the most population counts."""
    lines = [re.split(r"//|@ ", line)[0].rstrip() for line in assembly.splitlines()]
    places = {match[1]: number for number, line in enumerate(lines) if (match := _LABEL.match(line))}
    loops = []
    for number, line in enumerate(lines):
        match = _BRANCH.match(line)
        if match and places.get(match[1], number) < number:
            loops.append((places[match[1]], number))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [tuple(line for line in lines[first : last + 1] if re.match(r"^\t[^.]", line)) for first, last in inner]
    best = max(bodies, key=_macs, default=())
    return HotLoop(best, _macs(best))


def _macs(body: tuple[str, ...]) -> int:
    counts = [match for line in body if (match := _COUNT.match(line))]
    return sum(128 if match[2] == "16b" or match[1].startswith("q") else 64 for match in counts)


def version() -> str | None:
    """What llvm-mca calls itself, None where it is not installed."""
    if shutil.which(TOOL) is None:
        return None
    shown = subprocess.run([TOOL, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"LLVM version (\S+)", shown)
    return f"{TOOL} {match[1]}" if match else TOOL


def macs_per_cycle(loop: HotLoop, triple: str, cpu: str) -> float | None:
    """Binary multiply-accumulates in a cycle, or None where llvm-mca has no model of `cpu` for `triple`."""
    command = [TOOL, f"-mtriple={triple}", f"-mcpu={cpu}", f"-iterations={_ITERATIONS}"]
    done = subprocess.run(command, input="\n".join(loop.instructions), capture_output=True, text=True, check=False)
    match = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return loop.macs * _ITERATIONS / int(match[1]) if match else None
