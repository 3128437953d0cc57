"""The quality of the ARM code without a board: binary multiply-accumulates in a cycle of the kernels' hot loops."""

import itertools
from dataclasses import dataclass

from benchmarks import hot_loop, layers
from benchmarks.progress import Tell
from bnncc.codegen.llvm import compile_object
from bnncc.targets import TARGETS

# Target -> core that its hot loops are modelled on. LLVM has no model of Cortex-A7 or A53 for 32-bit code.
CORES = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "cortex-a76", "armv7": "cortex-a72"}

# eor, cnt and add for 128 products, at the vector instructions that a core starts in a cycle.
LIMIT = {"cortex-a53": 128 / 3, "cortex-a72": 256 / 3, "cortex-a76": 256 / 3}

# Larq Compute Engine 0.16.0's hand-written aarch64 kernels (8 channels by 4 pixels), by the same tool.
LARQ = {"rpi3": "22 to 32", "rpi4": "85.1", "rpi5": "85"}


@dataclass(frozen=True)
class LoopRate:
    """One kernel's hot loop. `macs_per_cycle` is None where llvm-mca has no model of the core."""

    target: str
    core: str
    name: str
    instructions: int
    spills: int
    macs_per_cycle: float | None
    kind: str = "modelled"


def measure(tell: Tell) -> list[LoopRate]:
    """All kernels of ResNet-18's shapes for all cores; `tell` hears how much is done. llvm-mca must be there."""
    kernels = list(itertools.product(CORES.items(), (3, 1), layers.RESNET18, (False, True)))
    rates = []
    for done, ((name, core), kernel, (channels, _, extent, _), full) in enumerate(kernels):
        tell(done / len(kernels))
        target = TARGETS[name]
        case = layers.binary_convolution("ResNet-18", kernel, channels, channels, extent, 1, full=full, target=target)
        loop = hot_loop.find(compile_object({"kernel": case.function}, target, form="s").decode())
        rate = hot_loop.macs_per_cycle(loop, target.triple, core)
        rates.append(LoopRate(name, core, case.name, len(loop.instructions), loop.spills, rate))
    return rates
