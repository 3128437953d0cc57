"""32-bit ARM with NEON and hard-float ABI: 32-bit Raspberry Pi OS on a Raspberry Pi 2 and later.

NEON of 32 bits takes denormal floats (below 1.2e-38 in magnitude) for 0, and gives 0 for them; no other target does.

Half the registers of 64-bit ARM: 16 of 128 bits. Vector loads have no offsets, so small tiles also save address
arithmetic.
"""

from bnncc.targets.target import ByteTiles, Target, Tiles

_BINARY = ((4, 2, 1), (3, 2, 1), (2, 2, 1), (7, 1, 1), (4, 1, 1), (1, 4, 1))

ARMV7 = Target(
    name="armv7",
    description="32-bit Raspberry Pi OS on a Raspberry Pi 2 or later, any ARMv7-A with NEON (which flushes denormals)",
    triple="armv7l-linux-gnueabihf",
    # The order of instructions follows the Cortex-A7. What it has and a Cortex-A8 or A9 lacks (division, fused
    # multiply-add, half floats) is left out, as nothing is faster with it.
    cpu="cortex-a7",
    attributes=("+neon", "-vfp4", "-fp16", "-hwdiv", "-hwdiv-arm", "-virtualization"),
    features=("neon",),
    vector_bits=128,
    registers=16,
    lane_bits=8,
    binary=ByteTiles(channels=_BINARY),
    # With more taps, four vectors of weights need too many addresses.
    binary_1x1=ByteTiles(channels=((2, 4, 1), *_BINARY)),
    float32=Tiles(((4, 2), (6, 2), (2, 4), (1, 8), (1, 2))),
    int8=Tiles(((3, 2), (2, 2), (1, 2))),  # products of bytes need registers between them
    float_abi="hard",
    int8_dot="vmlal",
    pointer_bits=32,
)
