"""Static memory plan: where each temporary lies in the one arena, so that running allocates nothing.

Tensors whose lifetimes do not overlap share bytes. Largest first, each at the lowest offset that no tensor alive at
the same time occupies: greedy by size, as in Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020 (arXiv 2001.03288).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bnncc.runtime.abi import ALIGNMENT


@dataclass(frozen=True)
class Lifetime:
    """A temporary of `size` bytes, written by call `first` and read last by call `last`."""

    size: int
    first: int
    last: int


def plan(lifetimes: Mapping[str, Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets by name, each a multiple of ALIGNMENT, and the arena's size in bytes."""
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, Lifetime]] = []
    end = 0
    for name, life in sorted(lifetimes.items(), key=lambda item: (-item[1].size, item[1].first, item[0])):
        offset = 0
        # Intervals in order of their start: move past each that overlaps in time until a gap is wide enough.
        for start, stop, other in sorted(placed, key=lambda interval: interval[0]):
            if other.last < life.first or life.last < other.first:
                continue
            if offset + life.size <= start:
                break
            offset = max(offset, stop)
        stop = offset + -(-life.size // ALIGNMENT) * ALIGNMENT
        placed.append((offset, stop, life))
        offsets[name] = offset
        end = max(end, stop)
    return offsets, end
