"""64-bit ARM with NEON: any ARMv8-A board, and the cores of the Raspberry Pi 3, 4 and 5.

All of them run the code for `arm`; the others only order instructions for their core. Cortex-A53 issues in order, so
for it that order decides, and tiles are small enough to spill nothing.
"""

import dataclasses

from bnncc.targets.neon import binary_tile, float_tile, tiles
from bnncc.targets.target import Target, Tile, Work

# (pixels, vectors, rows if more than one) within the 32 registers of 128 bits, best first.
_BINARY_BYTES = tiles((7, 2), (4, 4), (2, 8), (2, 4), (4, 2), (8, 1), (1, 8), lanes="bytes")
_BINARY = tiles((2, 4, 2), (4, 4), (2, 8), (7, 2), (2, 4), (4, 2), (8, 1), (1, 8), (4, 1), (1, 4)) + _BINARY_BYTES
_BINARY_A53 = tiles((2, 4, 2), (7, 2), (3, 4), (2, 4), (4, 2), (7, 1), (1, 8), (4, 1), (1, 4)) + _BINARY_BYTES
_BINARY_A53_1X1 = tiles((3, 4), (2, 4), (1, 8), (4, 2), (4, 1), (1, 4))  # more pixels would spill their broadcasts
_FLOAT = ((4, 4), (6, 4), (7, 2), (8, 2), (2, 8), (1, 8), (4, 2))
# Products of bytes need registers between them, four for each tile of 16 sums.
_INT8 = ((4, 4), (3, 4), (7, 2), (2, 4), (4, 2), (1, 4))
_INT8_A53 = ((3, 4), (4, 4), (2, 4), (4, 2), (1, 4))


def out_of_order(work: Work) -> Tile | None:
    """For cores that order instructions themselves."""
    if work.kind == "xnor_conv2d":
        return binary_tile(work, _BINARY, load=0.2)
    return float_tile(work, _INT8 if work.kind == "conv2d_int8" else _FLOAT)


def in_order(work: Work) -> Tile | None:
    """For Cortex-A53."""
    if work.kind == "xnor_conv2d":
        if work.columns == 1:
            return binary_tile(work, _BINARY_A53_1X1, load=1.0)
        return binary_tile(work, _BINARY_A53, load=1.0, broadcast=2.0)  # ld1r, and an add for its address
    return float_tile(work, _INT8_A53 if work.kind == "conv2d_int8" else _FLOAT)


ARM = Target(
    name="arm",
    description="any 64-bit Raspberry Pi or other ARMv8-A Linux board (code scheduled for Cortex-A72)",
    triple="aarch64-linux-gnu",
    # The instruction set is plain ARMv8.0; only the order of instructions follows the Cortex-A72.
    cpu="cortex-a72",
    attributes=(),
    features=("asimd",),
    vector_bits=128,
    lane_bits=8,
    rules=(out_of_order,),
    int8_dot="smlal",
    broadcasts_lanes=True,  # a load that broadcasts has no offset, so it needs an addition for its address
)
RPI3 = dataclasses.replace(
    ARM,
    name="rpi3",
    description="Raspberry Pi 3 and Zero 2 W, 64-bit (Cortex-A53)",
    cpu="cortex-a53",
    rules=(in_order,),
    # Loads that LLVM puts side by side, to make one of two, come too early or too late in a core that waits for them.
    options=("-misched-cluster:bool=false",),
)
RPI_ZERO2W = dataclasses.replace(RPI3, name="rpi-zero2w", description="Raspberry Pi Zero 2 W, 64-bit (as rpi3)")
RPI4 = dataclasses.replace(ARM, name="rpi4", description="Raspberry Pi 4, 64-bit (Cortex-A72)")
RPI5 = dataclasses.replace(
    ARM,
    name="rpi5",
    description="Raspberry Pi 5, 64-bit (Cortex-A76 with dot product)",
    cpu="cortex-a76",
    features=("asimd", "asimddp", "atomics"),
    int8_dot="sdot",
)
