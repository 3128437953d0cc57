"""What this CPU is and can do, and which code runs on which. Features are named as /proc/cpuinfo (Linux) names them.

On ARM they come from the auxiliary vector, which is what the kernel promises this very process: a 32-bit program on a
64-bit kernel reads the 64-bit features in /proc/cpuinfo. On x86 they come from /proc/cpuinfo, or where a sandbox hides
that, from glibc.
"""

import ctypes
import functools
import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Processors as LLVM's triples spell them, where `machine` has another name for them.
_MACHINES = {"armv7a": "armv7l", "armv7": "armv7l", "arm": "armv7l"}


# Bits of getauxval(AT_HWCAP) and getauxval(AT_HWCAP2), linux/arch/arm{,64}/include/uapi/asm/hwcap.h.
_AUXILIARY = {
    "aarch64": (
        {"fp": 0, "asimd": 1, "aes": 3, "crc32": 7, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12,
         "lrcpc": 15, "asimddp": 20, "sve": 22},
        {"sve2": 1, "i8mm": 13, "bf16": 14},
    ),
    "armv7l": (
        {"half": 1, "thumb": 2, "fastmult": 4, "vfp": 6, "edsp": 7, "neon": 12, "vfpv3": 13, "vfpv3d16": 14, "tls": 15,
         "vfpv4": 16, "idiva": 17, "idivt": 18, "vfpd32": 19, "lpae": 20},
        {"aes": 0, "pmull": 1, "sha1": 2, "sha2": 3, "crc32": 4},
    ),
}  # fmt: skip
# Leaf, register (eax, ebx, ecx, edx) and bit of __x86_get_cpuid_feature_leaf (glibc 2.33, sys/platform/x86.h).
_CPUID = {
    "ssse3": (0, 2, 9), "fma": (0, 2, 12), "sse4_1": (0, 2, 19), "sse4_2": (0, 2, 20), "popcnt": (0, 2, 23),
    "avx": (0, 2, 28), "f16c": (0, 2, 29), "bmi1": (1, 1, 3), "avx2": (1, 1, 5), "bmi2": (1, 1, 8),
    "avx512f": (1, 1, 16), "avx512dq": (1, 1, 17), "avx512cd": (1, 1, 28), "avx512bw": (1, 1, 30),
    "avx512vl": (1, 1, 31), "avx512_vnni": (1, 2, 11), "avx512_vpopcntdq": (1, 2, 14),
}  # fmt: skip
_ARMV8_IN_32_BITS = frozenset({"neon", "vfpv3", "vfpv4", "idiva", "idivt", "thumb", "half", "vfp", "edsp"})


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
    return process_machine(platform.machine(), struct.calcsize("P"))


def process_machine(kernel: str, pointer_bytes: int) -> str:
    """The same for a process with such pointers on a `kernel` whose `uname -m` says this."""
    if kernel in ("aarch64", "arm64", "armv8l"):
        return "armv7l" if pointer_bytes == 4 else "aarch64"
    if kernel in ("x86_64", "AMD64", "amd64"):
        return "i686" if pointer_bytes == 4 else "x86_64"
    return kernel


@functools.cache
def features() -> frozenset[str]:
    """Feature names of this CPU as /proc/cpuinfo spells them; empty where nothing says them."""
    if machine() in _AUXILIARY and (found := _auxiliary(machine())):
        return found
    return parse_features(_cpuinfo()) or (cpuid_features() if machine() == "x86_64" else frozenset())


def _auxiliary(name: str) -> frozenset[str]:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return frozenset()
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return auxiliary_features(name, getauxval(16), getauxval(26))


def auxiliary_features(name: str, hwcap: int, hwcap2: int) -> frozenset[str]:
    """Those that AT_HWCAP and AT_HWCAP2 of a process on this machine say."""
    bits = zip((hwcap, hwcap2), _AUXILIARY[name], strict=True)
    return frozenset(feature for word, names in bits for feature, bit in names.items() if word >> bit & 1)


def cpuid_features() -> frozenset[str]:
    """Those of x86 that targets ask for and that glibc found and the kernel enabled; none with another C library."""
    try:
        leaf = ctypes.CDLL(None).__x86_get_cpuid_feature_leaf
    except (OSError, AttributeError):
        return frozenset()
    leaf.argtypes, leaf.restype = [ctypes.c_uint], ctypes.POINTER(ctypes.c_uint32 * 8)
    # Four registers as the CPU gives them, and four with what may be used.
    return frozenset(name for name, (number, at, bit) in _CPUID.items() if leaf(number).contents[4 + at] >> bit & 1)


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

    x86 lists them as `flags`, ARM as `Features`. A 64-bit ARM kernel names those of 64-bit programs; what every such
    CPU gives 32-bit programs is then added.
    """
    cores = []
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            cores.append(frozenset(value.split()))
    common = frozenset.intersection(*cores) if cores else frozenset()
    return common | _ARMV8_IN_32_BITS if "asimd" in common else common


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
