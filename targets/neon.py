"""Tiles for NEON, 64-bit and 32-bit: cnt counts the bits of sixteen bytes, so popcount lanes are bytes."""

from dataclasses import replace

from bnncc.targets.target import Tile, Work, best_tile

LANES = 16  # bytes in a vector
_FLOAT_LANES = 4
_CHAINS = 8  # sums that must grow side by side to hide the latency of eor, cnt and add
_SHARED_TAPS = 10  # of a window that tiles of several rows count at once: three words of each still fit a byte lane
_L1_BYTES = 24 * 1024  # weights of one tile that stay in a first-level cache of 32 KiB, beside everything else
_L2_COST = 1.05  # of fetching them from the second level each time
_LONGEST = 1 << 13  # bytes of a window whose sum of bits could pass 16 bits
_SLICE = 8  # channels that a tile of bytes finishes together
# Instructions for each sum and word: to flush bytes into 16 bits every 27 words or so, and, for each sum that is
# finished, to add up lanes that are bytes.
_FLUSH_CHANNELS, _FLUSH_BYTES, _ADD_LANES = 0.19, 0.08, 1.75


def binary_tile(work: Work, tiles: tuple[Tile, ...], load: float, broadcast: float = 1.0) -> Tile:
    """The cheapest of `tiles`, earlier ones winning ties, by instructions of the vector pipes: eor, cnt and add for
    each sum and word, wasted sums included, and what it takes to flush sums and to add lanes up.

    A row of the window is read once for all its columns, and in a tile of several rows once for all rows of the output
    that it reaches, which is where many pixels save; many vectors save by using each word more often. `load` is what
    loading a vector costs beside that: little where other pipes do it meanwhile; `broadcast` the same for one byte of
    the input, where lanes are channels.
    """
    shares_rows = 1 < work.window_rows * work.columns <= _SHARED_TAPS
    tap_words = work.reduction // (work.columns * work.window_rows)
    can_be_bytes = tap_words % LANES == 0 and work.reduction < _LONGEST

    def fit(tile: Tile) -> Tile:
        vectors = tile.vectors if tile.lanes == "bytes" else min(tile.vectors, -(-work.channels // LANES))
        return replace(tile, pixels=min(tile.pixels, work.width), vectors=vectors)

    def cost(tile: Tile) -> float:
        in_bytes, pixels = tile.lanes == "bytes", tile.pixels * tile.rows
        multiple = _SLICE if in_bytes else LANES * tile.vectors
        channels = -(-work.channels // multiple) * multiple
        computed = -(-work.width // tile.pixels) * tile.pixels * channels
        window = (tile.pixels + work.columns - 1) * (tile.rows + work.window_rows - 1)
        reads = window / (pixels * work.columns * work.window_rows * tile.vectors)
        reading = reads * (load if in_bytes else broadcast) + load / pixels
        ending = _FLUSH_BYTES + _ADD_LANES * LANES / work.reduction if in_bytes else _FLUSH_CHANNELS
        stalls = max(1.0, _CHAINS / (pixels * tile.vectors))
        weights = tile.vectors * work.reduction * (1 if in_bytes else LANES)
        return computed * (3 + reading + ending) * stalls * (_L2_COST if weights > _L1_BYTES else 1.0)

    possible = [tile for tile in tiles if tile.rows == 1 or (shares_rows and work.rows % tile.rows == 0)]
    return min((fit(tile) for tile in possible if tile.lanes == "channels" or can_be_bytes), key=cost)


def tiles(*extents: tuple[int, ...], lanes: str = "channels") -> tuple[Tile, ...]:
    """Tiles of (pixels, vectors) or (pixels, vectors, rows)."""
    return tuple(Tile(each[0], each[1], each[2] if len(each) > 2 else 1, lanes) for each in extents)


def float_tile(work: Work, tiles: tuple[tuple[int, int], ...]) -> Tile:
    """4 channels a vector; the kernels take vectors in pairs."""
    return best_tile(work, _FLOAT_LANES, tiles)
