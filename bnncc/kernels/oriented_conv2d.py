"""Circulant convolution whose filters have a slice for each orientation of the input: the ordinary kernel on weights
that are put in order when they are needed.

    w[k * F + f, t, l * C + c] = base[f, turned_k(t), ((l - k) mod M) * C + c]

Slices are whole words, so an orientation of a filter has the words of the base in another order. Before the tiles of a
block of channels they are copied in that order to the stack, where they stay in the first-level cache: less than a copy
of the expanded weights from memory, because base filters are M times smaller.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.kernels import xnor_default
from bnncc.kernels.kernel import Array
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_conv2d import TileWeights, XnorConv2d
from bnncc.kernels.xnor_schedules import ChannelLanes, WordLanes, XnorSchedule
from bnncc.ops.circulant_expand import RING
from bnncc.targets.target import Target
from bnncc.tir.registers import Buffer, Expr, load, stack, store

MOST_STACK = 64 * 1024  # bytes of the weights of one block of channels

_TAPS = (*RING, 4)  # the order in which filters are stored
_PLACES = sum(place << 4 * tap for place, tap in enumerate(_TAPS))  # of each tap among them, four bits each


@dataclass(frozen=True)
class OrientedConv2d(XnorConv2d):
    """Extents. A 3x3 kernel and one group; output channels are those of all orientations."""

    kind: ClassVar[str] = "oriented_conv2d"
    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (WordLanes, ChannelLanes)

    orientations: int = 1

    @property
    def group_channels(self) -> int:
        return self.output.channels // self.orientations

    @property
    def filter_groups(self) -> int:
        return self.orientations

    def default(self, target: Target) -> XnorSchedule:
        """All rows of a block before the next block, whose weights have to be copied."""
        return dataclasses.replace(xnor_default.default(self, target), rows_first=False)

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """(base weights uint8 [F, 9, M slices], then as XnorConv2d)."""
        weights, *rest = constants
        ordered = np.ascontiguousarray(weights.astype(np.uint8)[:, list(_TAPS)])
        return super().arrange((ordered, *rest), target, schedule)

    def tile_weights(self, target: Target, schedule: XnorSchedule, weights: Buffer) -> TileWeights:
        """A copy on the stack."""
        assert isinstance(schedule, WordLanes | ChannelLanes)
        lanes, m = target.popcount_lanes, self.orientations
        words = self.group_bytes // target.word_bytes
        in_slice = words // m
        copy, start = stack(weights.dtype, schedule.vectors * len(_TAPS) * words * lanes)

        def prepare(group: Expr, block: Expr, vectors: int) -> None:
            with T.serial(0, vectors) as vector, T.serial(0, len(_TAPS)) as tap:
                place = T.shift_right(tirx.const(_PLACES, "int64"), T.cast(tap * 4, "int64"))
                number = T.Bind(T.cast(T.bitwise_and(place, tirx.const(15, "int64")), "int32"))
                outer = T.bitwise_and(number - group * (8 // m), 7)
                stored_tap = T.Select(number == len(RING), number, outer)
                source = T.Bind((stored_tap + (block + vector) * len(_TAPS)) * words)
                ordered = T.Bind((tap + vector * len(_TAPS)) * words)
                with T.serial(0, m) as part, T.serial(0, in_slice) as word:
                    turned = T.bitwise_and(part - group, m - 1)
                    value = load(weights, (source + turned * in_slice + word) * lanes, lanes)
                    store(copy, start + (ordered + part * in_slice + word) * lanes, value, lanes)

        return TileWeights(copy, start, prepare)


def why_not(conv: OrientedConv2d, target: Target) -> str:
    """Why this is not computed so; "" if it is."""
    lanes, filters, channels = target.popcount_lanes, conv.group_channels, conv.in_channels // conv.orientations
    if filters % lanes:
        return f"{filters} base filters are no multiple of the {lanes} lanes of {target.name}"
    if channels % target.lane_bits:
        return f"{channels} base channels do not fill words of {target.lane_bits} bits"
    schedule = conv.default(target)
    assert isinstance(schedule, WordLanes | ChannelLanes)
    size = schedule.vectors * lanes * conv.filter_bytes
    return f"weights of a block take {size} bytes of stack" if size > MOST_STACK else ""
