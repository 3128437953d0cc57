"""64-bit ARM: NEON counts the bits of sixteen bytes in one instruction (cnt), so lanes are bytes."""

from bnncc.targets.target import Target, Tile, Work, best_tile

# (pixels, vectors) within the 32 registers of 128 bits, best first.
_BINARY = ((4, 4), (2, 4), (4, 2), (7, 2), (8, 1), (4, 1), (1, 8), (2, 1))
_FLOAT = ((4, 4), (6, 4), (7, 2), (8, 2), (2, 8), (1, 8), (4, 2))


def neon(work: Work) -> Tile | None:
    """16 channels a vector for popcounts, 4 for floats, whose vectors the kernels take in pairs."""
    if work.kind == "xnor_conv2d":
        return best_tile(work, 16, _BINARY)
    return best_tile(work, 4, _FLOAT)


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
    rules=(neon,),
)
