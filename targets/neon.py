"""Tiles for NEON, 64-bit and 32-bit: cnt counts the bits of sixteen bytes, so popcount lanes are bytes."""

from dataclasses import replace

from bnncc.targets.target import Tile, Work, best_tile

LANES = 16  # bytes in a vector
_FLOAT_LANES = 4
_CHAINS = 8  # sums that must grow side by side to hide the latency of eor, cnt and add
_SHARED_TAPS = 10  # of a window that tiles of several rows count at once: three words of each still fit a byte lane
_L1_BYTES = 24 * 1024  # weights of one tile that stay in a first-level cache of 32 KiB, beside everything else
_L2_COST = 1.05  # of fetching them from the second level each time


def binary_tile(work: Work, tiles: tuple[Tile, ...], weight_load: float, broadcast: float = 1.0) -> Tile:
    """The cheapest of `tiles`, earlier ones winning ties, by instructions of the vector pipes: eor, cnt and add for
    each sum and word, wasted sums included, and `broadcast` to broadcast each byte of the input.

    A row of the window is broadcast once for all its columns, and in a tile of several rows once for all rows of the
    output that it reaches, which is where many pixels save; many vectors save by using each broadcast more often.
    `weight_load` is what loading a vector of weights costs beside that: little where other pipes do it meanwhile.
    """
    blocks = -(-work.channels // LANES)
    shares_rows = 1 < work.window_rows * work.columns <= _SHARED_TAPS

    def cost(tile: Tile) -> float:
        pixels = tile.pixels * tile.rows
        computed = -(-work.width // tile.pixels) * tile.pixels * -(-blocks // tile.vectors) * tile.vectors
        window = (tile.pixels + work.columns - 1) * (tile.rows + work.window_rows - 1)
        broadcasts = broadcast * window / (pixels * work.columns * work.window_rows * tile.vectors)
        loads = weight_load / pixels
        stalls = max(1.0, _CHAINS / (pixels * tile.vectors))
        far = _L2_COST if tile.vectors * LANES * work.reduction > _L1_BYTES else 1.0
        return computed * (3 + broadcasts + loads) * stalls * far

    possible = [tile for tile in tiles if tile.rows == 1 or (shares_rows and work.rows % tile.rows == 0)]
    return min(
        (replace(tile, pixels=min(tile.pixels, work.width), vectors=min(tile.vectors, blocks)) for tile in possible),
        key=cost,
    )


def tiles(*extents: tuple[int, ...]) -> tuple[Tile, ...]:
    """Tiles of (pixels, vectors) or (pixels, vectors, rows)."""
    return tuple(Tile(*each) for each in extents)


def float_tile(work: Work, tiles: tuple[tuple[int, int], ...]) -> Tile:
    """4 channels a vector; the kernels take vectors in pairs."""
    return best_tile(work, _FLOAT_LANES, tiles)
