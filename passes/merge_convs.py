"""Narrow binary convolutions of one input become one kernel: Group-Net's bases, layer-wise decompositions.

Where the channels of a convolution do not fill the lanes of a vector, those of its neighbours do: 5 times 16 channels
are three vectors of 32 lanes instead of five. Groups of `FuseEpilogue` are merged where their convolutions read the
same bits with the same window, and give as many channels. The merged function computes the convolutions first to last,
each with everything that follows it, and its kernel holds the sums of all of them in registers: what the second reads
of the first never goes to memory. In

    y = l1 * conv(x, w1) + l2 * conv(x, w2) + ...

the running sum stays where it is, in the order of additions that the source has.

Wide ones stay apart. They read the same packed bits one after the other at full speed; together they would write all
maps at once, which the next layers then find in a further cache.

Refused are grouped convolutions, those whose channels interact, channels that do not fill whole bytes, more
convolutions than a tile has vectors, and one that needs what another layer makes of the first.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from tvm import relax

from bnncc.kernels.schedule import MOST_VECTORS
from bnncc.ops import spans
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.expressions import array, extents
from bnncc.ops.xnor_conv2d import XnorConv2d
from bnncc.tir.tiles import SLICE


class Groups(Protocol):
    """What `FuseEpilogue` found: see its _Grouping."""

    bindings: list[relax.Binding]
    members: dict[int, list[int]]
    anchor: dict[int, str]
    group_of: dict[int, int]
    refused: list[str]

    def reads(self, index: int) -> set[int]:
        """Positions of the bindings that a binding reads."""

    def needs(self, unit: int) -> set[int]:
        """The units that a unit reads."""


def merge(groups: Groups, lanes: int) -> None:
    """Merge what can be merged and does not fill vectors of so many lanes, into the first of them."""
    known: dict[Hashable, list[int]] = {}  # what a kernel is -> the convolutions of the last group that has it
    for index in sorted(groups.members):
        conv = XnorConv2d.match(groups.bindings[index].value)
        if conv is None or conv.groups > 1 or _interacts(groups, index):
            continue
        channels = extents(conv.call)[3]
        if channels % SLICE or channels % lanes == 0:
            continue
        key = (conv.bits, conv.window, conv.bit_weight, extents(conv.call))
        convs = known.get(key)
        if convs is None or len(convs) == MOST_VECTORS or not _same_classes(groups, convs, conv):
            known[key] = [index]
        elif _depends(groups, groups.needs(index) - {convs[0]}, convs[0]):
            groups.refused.append(f"{spans.name_of(conv.call)}: needs what other layers make of the same input")
            known[key] = [index]
        elif not _depends(groups, groups.needs(convs[0]), index):
            convs.append(index)
            _merge(groups, convs[0], index)


def _interacts(groups: Groups, group: int) -> bool:
    return any(ChannelInteraction.match(groups.bindings[member].value) for member in groups.members[group])


def _merge(groups: Groups, first: int, second: int) -> None:
    moved = groups.members.pop(second)
    del groups.anchor[second]
    groups.members[first] = sorted(groups.members[first] + moved)
    groups.group_of.update(dict.fromkeys(moved, first))


def _depends(groups: Groups, units: set[int], on: int) -> bool:
    """Whether one of these units, with everything that they need, is or needs another."""
    seen, waiting = set[int](), list(units)
    while waiting:
        unit = waiting.pop()
        if unit == on:
            return True
        if unit not in seen:
            seen.add(unit)
            waiting += groups.needs(unit)
    return False


def _same_classes(groups: Groups, convs: list[int], conv: XnorConv2d) -> bool:
    """Whether the border classes of a convolution are those of the others, or none."""
    others = [XnorConv2d.of(groups.bindings[index].value) for index in convs]
    tables = [
        (array(one.row_class).tobytes(), array(one.col_class).tobytes())
        for one in [*others, conv]
        if extents(one.offset)[:2] != (1, 1)
    ]
    return len(set(tables)) <= 1
