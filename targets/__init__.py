"""The machines an artifact can be compiled for: `TARGETS` by name, and `find`, which also knows `native`."""

from bnncc.runtime import cpu
from bnncc.runtime.errors import OptionError
from bnncc.targets.arm import ARM, RPI3, RPI4, RPI5, RPI_ZERO2W
from bnncc.targets.armv7 import ARMV7
from bnncc.targets.target import Target
from bnncc.targets.x86 import X86, X86_AVX2, X86_AVX512, X86_AVX512BW

# Best first within a family: `native` takes the first whose features this machine has.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (X86_AVX512, X86_AVX512BW, X86_AVX2, X86, RPI5, ARM, RPI4, RPI3, RPI_ZERO2W, ARMV7)
}


def find(name: str) -> Target:
    """The target called `name`; `native` is the best one that this machine runs.

    Raises:
        OptionError: no such target, or no target runs on this machine.
    """
    if name in TARGETS:
        return TARGETS[name]
    if name != "native":
        raise OptionError(f"target: {name!r} is not known; choose one of native, {', '.join(TARGETS)}")
    host = cpu.host()
    if found := runnable(host):
        return found[0]
    raise OptionError(
        f"target: native: no target runs on this {host.machine} machine; choose one of {', '.join(TARGETS)}"
    )


def runnable(host: cpu.Host | None = None) -> tuple[Target, ...]:
    """The targets whose code runs on `host`, this machine by default, best first."""
    host = host or cpu.host()
    return tuple(target for target in TARGETS.values() if target.runs_on(host))
