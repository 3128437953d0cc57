"""64-bit ARM with NEON: any ARMv8-A board, and the cores of the Raspberry Pi 3, 4 and 5.

All of them run the code for `arm`; the others only order instructions for their core. Cortex-A53 issues in order, so
for it that order decides, and tiles are small enough to spill nothing.
"""

import dataclasses

from bnncc.targets.target import ByteTiles, Target, Tiles

_WINDOWS = ((7, 2, 1), (4, 4, 1), (2, 8, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1), (1, 8, 1))
# For cores that order instructions themselves.
_OUT_OF_ORDER = ByteTiles(
    channels=(
        (2, 4, 2), (4, 4, 1), (2, 8, 1), (7, 2, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1), (1, 8, 1), (4, 1, 1), (1, 4, 1)
    ),
    windows=_WINDOWS,
    load=0.2,
)  # fmt: skip
# For Cortex-A53, where a broadcast is ld1r and an addition for its address.
_IN_ORDER = ByteTiles(
    channels=((2, 4, 2), (7, 2, 1), (3, 4, 1), (2, 4, 1), (4, 2, 1), (7, 1, 1), (1, 8, 1), (4, 1, 1), (1, 4, 1)),
    windows=_WINDOWS,
    broadcast=2.0,
)
# More pixels would spill their broadcasts.
_IN_ORDER_1X1 = ByteTiles(channels=((3, 4, 1), (2, 4, 1), (1, 8, 1), (4, 2, 1), (4, 1, 1), (1, 4, 1)))

ARM = Target(
    name="arm",
    description="any 64-bit Raspberry Pi or other ARMv8-A Linux board (code scheduled for Cortex-A72)",
    triple="aarch64-linux-gnu",
    # The instruction set is plain ARMv8.0; only the order of instructions follows the Cortex-A72.
    cpu="cortex-a72",
    attributes=(),
    features=("asimd",),
    vector_bits=128,
    registers=32,
    lane_bits=8,
    binary=_OUT_OF_ORDER,
    float32=Tiles(((4, 4), (6, 4), (7, 2), (8, 2), (2, 8), (1, 8), (4, 2))),
    # Products of bytes need registers between them, four for each tile of 16 sums.
    int8=Tiles(((4, 4), (3, 4), (7, 2), (2, 4), (4, 2), (1, 4))),
    int8_dot="smlal",
    broadcasts_lanes=True,  # a load that broadcasts has no offset, so it needs an addition for its address
)
RPI3 = dataclasses.replace(
    ARM,
    name="rpi3",
    description="Raspberry Pi 3 and Zero 2 W, 64-bit (Cortex-A53)",
    cpu="cortex-a53",
    binary=_IN_ORDER,
    binary_1x1=_IN_ORDER_1X1,
    int8=Tiles(((3, 4), (4, 4), (2, 4), (4, 2), (1, 4))),
    # Loads that LLVM puts side by side, to make one of two, come too early or too late in a core that waits for them.
    options=("-misched-cluster:bool=false",),
)
RPI_ZERO2W = dataclasses.replace(RPI3, name="rpi-zero2w", description="Raspberry Pi Zero 2 W, 64-bit (as rpi3)")
RPI4 = dataclasses.replace(ARM, name="rpi4", description="Raspberry Pi 4, 64-bit (Cortex-A72)")
RPI5 = dataclasses.replace(
    ARM,
    name="rpi5",
    description="Raspberry Pi 5, 64-bit (Cortex-A76 with dot product)",
    # Of what else a Cortex-A76 has, nothing is asked for: what a target may contain, it must declare.
    cpu="cortex-a76",
    attributes=("-rcpc", "-rdm", "-fullfp16"),
    features=("asimd", "asimddp", "atomics"),
    int8_dot="sdot",
)
