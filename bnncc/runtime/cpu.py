"""What this CPU is and can do, read from /proc/cpuinfo (Linux)."""

import functools
import platform
import struct
from pathlib import Path


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
