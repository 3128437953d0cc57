"""32-bit ARM with NEON and hard-float ABI: 32-bit Raspberry Pi OS on a Raspberry Pi 2 and later.

Half the registers of 64-bit ARM: 16 of 128 bits. Vector loads have no offsets, so small tiles also save address
arithmetic.
"""

from bnncc.targets.neon import binary_tile, float_tile, tiles
from bnncc.targets.target import Target, Tile, Work

_BINARY = tiles((4, 2), (3, 2), (2, 2), (7, 1), (4, 1), (1, 4))
_BINARY_1X1 = (Tile(2, 4), *_BINARY)  # with more taps, four vectors of weights need too many addresses
_FLOAT = ((4, 2), (6, 2), (2, 4), (1, 8), (1, 2))
_INT8 = ((3, 2), (2, 2), (1, 2))  # products of bytes need registers between them


def neon(work: Work) -> Tile | None:
    """16 channels a vector for popcounts, 4 for floats."""
    if work.kind == "xnor_conv2d":
        return binary_tile(work, _BINARY if work.columns > 1 else _BINARY_1X1, load=1.0)
    return float_tile(work, _INT8 if work.kind == "conv2d_int8" else _FLOAT)


ARMV7 = Target(
    name="armv7",
    description="32-bit Raspberry Pi OS on a Raspberry Pi 2 or later (ARMv7-A with NEON and VFPv4)",
    triple="armv7l-linux-gnueabihf",
    # The oldest core of the family: code for Cortex-A53 would hold instructions that only ARMv8 has.
    cpu="cortex-a7",
    attributes=("+neon",),
    features=("neon", "vfpv4"),
    vector_bits=128,
    lane_bits=8,
    rules=(neon,),
    float_abi="hard",
    int8_dot="vmlal",
    pointer_bits=32,
)
