"""Tiles for NEON, 64-bit and 32-bit: cnt counts the bits of sixteen bytes, so popcount lanes are bytes."""

from bnncc.targets.target import Tile, Work, best_tile

LANES = 16  # bytes in a vector
_FLOAT_LANES = 4
_CHAINS = 8  # sums that must grow side by side to hide the latency of eor, cnt and add
_L1_BYTES = 24 * 1024  # weights of one tile that stay in a first-level cache of 32 KiB, beside everything else
_L2_COST = 1.05  # of fetching them from the second level each time


def binary_tile(work: Work, tiles: tuple[tuple[int, int], ...], weight_load: float = 0.0) -> Tile:
    """The cheapest of `tiles` (pixels, vectors), earlier ones winning ties, by instructions of the vector pipes: eor,
    cnt and add for each sum and word, wasted sums included, and one to broadcast each byte of the input.

    A row of the window is broadcast once for all its columns, which is where many pixels save; many vectors save by
    using each broadcast more often. `weight_load` is what loading a vector of weights costs beside that: nothing where
    other pipes do it meanwhile.
    """
    blocks = -(-work.channels // LANES)

    def cost(tile: tuple[int, int]) -> float:
        pixels, vectors = min(tile[0], work.width), min(tile[1], blocks)
        computed = -(-work.width // pixels) * pixels * -(-blocks // vectors) * vectors
        broadcasts = (pixels + work.columns - 1) / (pixels * work.columns * vectors)
        loads = weight_load / pixels
        stalls = max(1.0, _CHAINS / (pixels * vectors))
        far = _L2_COST if vectors * LANES * work.reduction > _L1_BYTES else 1.0
        return computed * (3 + broadcasts + loads) * stalls * far

    pixels, vectors = min(tiles, key=cost)
    return Tile(min(pixels, work.width), min(vectors, blocks))


def float_tile(work: Work, tiles: tuple[tuple[int, int], ...]) -> Tile:
    """4 channels a vector; the kernels take vectors in pairs."""
    return best_tile(work, _FLOAT_LANES, tiles)
