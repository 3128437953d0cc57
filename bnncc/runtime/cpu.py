"""What this CPU is and can do, read from /proc/cpuinfo (Linux), and which code runs on which."""

import functools
import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Processors as LLVM's triples spell them, where `machine` has another name for them.
_MACHINES = {"armv7a": "armv7l", "armv7": "armv7l", "arm": "armv7l"}


@dataclass(frozen=True)
class Host:
    """A machine that code may run on. machine: as `machine` names it. features: as /proc/cpuinfo spells them. system:
    Python's `sys.platform`."""

    machine: str
    features: frozenset[str]
    system: str = "linux"

    def why_not(self, triple: str, features: Iterable[str]) -> str:
        """Why code for `triple` that uses CPU `features` does not run here, behind "it "; "" if it does."""
        wanted = triple.partition("-")[0]
        if self.system != "linux" or "linux" not in triple:
            return f"is made for {triple} and this is {self.machine} {self.system}"
        if _MACHINES.get(wanted, wanted) != self.machine:
            return f"is made for {wanted} and this machine is {self.machine}"
        if missing := sorted(set(features) - self.features):
            return f"needs CPU features this machine lacks: {' '.join(missing)}"
        return ""


def host() -> Host:
    """The machine of this process."""
    return Host(machine(), features(), sys.platform)


def machine() -> str:
    """Machine of this process: "x86_64", "aarch64", "armv7l" (also for a 32-bit process on a 64-bit ARM) or another."""
    name = platform.machine()
    if name in ("aarch64", "arm64"):
        return "armv7l" if struct.calcsize("P") == 4 else "aarch64"
    return {"AMD64": "x86_64", "amd64": "x86_64"}.get(name, name)


@functools.cache
def features() -> frozenset[str]:
    """Feature names of this CPU as /proc/cpuinfo spells them; empty where there is no such file."""
    return parse_features(_cpuinfo())


@functools.cache
def model_name() -> str:
    """Name of this CPU or board for reports, "unknown" where nothing says it."""
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text(errors="replace").strip("\0 \n")
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            return value.strip()
    return "unknown"


def parse_features(cpuinfo: str) -> frozenset[str]:
    """Features that every core in the text of a /proc/cpuinfo has.

    x86 lists them as `flags`, ARM as `Features`. A 64-bit ARM kernel calls NEON `asimd`; both names are then given, so
    that a 32-bit library asking for `neon` is told the truth.
    """
    cores = []
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            cores.append(frozenset(value.split()))
    common = frozenset.intersection(*cores) if cores else frozenset()
    return common | {"neon"} if "asimd" in common else common


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
