"""The one place that fixes bit order and tail padding of packed signs.

Bit 1 is +1 and bit 0 is -1 (or 0 in a {0, 1} tensor). Channel c of a group sits in byte c // 8, bit c % 8 (least
significant first), so the bytes read as little-endian words of any size hold the same bits in the same order. Bits
past the last channel are 0 in weights and in activations alike: their xor is 0 and adds nothing to a popcount.
"""

import numpy as np
import numpy.typing as npt


def packed_bytes(channels: int, word_bytes: int = 1) -> int:
    """Bytes that `channels` bits fill, rounded up to whole words of `word_bytes`."""
    words = -(-channels // (8 * word_bytes))
    return words * word_bytes


def pack(positive: npt.NDArray[np.bool_], word_bytes: int = 1) -> npt.NDArray[np.uint8]:
    """Pack the last axis: bool [..., C] -> uint8 [..., packed_bytes(C, word_bytes)]."""
    packed = np.packbits(positive, axis=-1, bitorder="little")
    missing = packed_bytes(positive.shape[-1], word_bytes) - packed.shape[-1]
    return np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, missing)])


def unpack(packed: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.bool_]:
    """Inverse of `pack`: uint8 [..., B] -> bool [..., channels]."""
    return np.unpackbits(packed, axis=-1, count=channels, bitorder="little").astype(np.bool_)
