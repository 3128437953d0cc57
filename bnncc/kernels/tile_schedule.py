"""The schedule of kernels that hold a tile of pixels by vectors of channels in registers: products of floats and of
8-bit integers. Which tile is taken by default is the same rule for all of them and for popcounts of words."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

from bnncc.kernels.kernel import Kernel
from bnncc.kernels.schedule import MOST_VECTORS, Choices, Schedule, up_to
from bnncc.targets.target import Target, Tiles
from bnncc.tir.tiles import float_lanes

L1_WEIGHTS = 16 * 1024  # bytes of weights that stay in the first-level cache while rows are walked


@dataclass(frozen=True)
class TileSchedule(Schedule):
    """pixels, vectors: of one tile; a vector is `float_lanes` channels."""

    pixels: int
    vectors: int

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        tiled = cast(TiledKernel, kernel)
        blocks = -(-tiled.group_channels // float_lanes(target))
        return {"pixels": up_to(min(tiled.row, target.registers)), "vectors": up_to(min(blocks, MOST_VECTORS))}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        return too_many(target, pixels=self.pixels, vectors=self.vectors * float_lanes(target) // target.float_lanes)


@dataclass(frozen=True)
class ConvSchedule(TileSchedule):
    """rows_first: all channels of a row are computed before the next row, rather than all rows of a block of channels
    before the next block."""

    rows_first: bool

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        return {**(super().choices(kernel, target) or {}), "rows_first": (False, True)}


class TiledKernel(Kernel):
    """A kernel of products, whose tile is chosen from the target's tiles for its arithmetic."""

    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (TileSchedule,)

    @property
    @abstractmethod
    def row(self) -> int:
        """Pixels that can be computed side by side."""

    @property
    def group_channels(self) -> int:
        """Output channels of one group."""
        return self.output.channels

    def default(self, target: Target) -> TileSchedule:
        return TileSchedule(*self.best_tile(target))

    def best_tile(self, target: Target) -> tuple[int, int]:
        """(pixels, vectors) of the target's best tile, vectors being those of the schedule."""
        tiles = target.int8 if self.arithmetic == "int8" else target.float32
        pixels, vectors = best_tile(tiles, self.row, -(-self.group_channels // target.float_lanes))
        return pixels, -(-vectors * target.float_lanes // float_lanes(target))


class TiledConvolution(TiledKernel):
    """A convolution of products."""

    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (ConvSchedule,)

    @property
    def row(self) -> int:
        return self.output.width

    @abstractmethod
    def weight_bytes(self, target: Target) -> int:
        """Weights of one group."""

    def default(self, target: Target) -> ConvSchedule:
        return ConvSchedule(*self.best_tile(target), self.weight_bytes(target) <= L1_WEIGHTS)


def too_many(target: Target, **extents: int) -> str:
    """Why a tile of these extents, counted in registers, does not fit; "" if it does."""
    count = math.prod(extents.values())
    if count <= target.registers:
        return ""
    return f"{' x '.join(extents)} is {count} accumulators, allowed: the {target.registers} registers of {target.name}"


def best_tile(tiles: Tiles, width: int, blocks: int) -> tuple[int, int]:
    """The cheapest of `tiles` for rows of `width` pixels and `blocks` vectors of channels; earlier ones win ties.

    Cost is the accumulators computed, wasted ones included: the last tile of a row overlaps its neighbour when
    `pixels` does not divide the width, and the last block of channels is padded to whole vectors.
    """

    def cost(tile: tuple[int, int]) -> float:
        pixels, vectors = min(tile[0], width), min(tile[1], blocks)
        computed = -(-width // pixels) * pixels * -(-blocks // vectors) * vectors
        # A tile of few accumulators cannot hide latency and reloads its operands for each of them.
        loads = tiles.weight_load / pixels + 1 / vectors
        return computed * (1 + 0.3 * loads)

    pixels, vectors = min(tiles.extents, key=cost)
    return min(pixels, width), min(vectors, blocks)
