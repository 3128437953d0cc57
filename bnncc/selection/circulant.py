"""Binary convolutions whose weights are circulant, found by their bits: where they come from does not matter.

Shared filters become two kernels (kernels/tap_counts.py, kernels/circulant_sum.py), oriented ones one kernel
(kernels/oriented_conv2d.py); they keep the base filters alone. What stays an ordinary convolution says why.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.kernels import oriented_conv2d, tap_counts
from bnncc.kernels.circulant_sum import CirculantSum
from bnncc.kernels.oriented_conv2d import OrientedConv2d
from bnncc.kernels.tap_counts import TAPS, TapCounts
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.ops.circulant_expand import Base, turned
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep

Integers = npt.NDArray[np.int32]


class Refused(Exception):
    """A circulant convolution stays an ordinary one; the message says why."""


def oriented(conv: XnorConv2d, base: Base, target: Target) -> tuple[OrientedConv2d, npt.NDArray[np.uint8]]:
    """The kernel and its weights; the other constants are those of `conv`.

    Raises Refused.
    """
    if conv.kernel != (3, 3) or conv.groups != 1:
        raise Refused("its window is not 3x3")
    fields = {field.name: getattr(conv, field.name) for field in dataclasses.fields(conv)}
    kernel = OrientedConv2d(**fields, orientations=base.orientations)
    if reason := oriented_conv2d.why_not(kernel, target):
        raise Refused(reason)
    return kernel, bitpack.pack(base.bits)


def shared(
    conv: XnorConv2d,
    base: Base,
    tables: tuple[Integers, Integers, Integers],
    layout: ep.BitLayout | None,
    target: Target,
) -> tuple[TapCounts, npt.NDArray[np.uint8], CirculantSum, tuple[Integers, Integers, Integers]]:
    """The two kernels and their constants. tables: offset, row_class, col_class of `conv`. layout: that of its bits,
    None where it is not known.

    Raises Refused.
    """
    filters, _, channels = base.bits.shape
    if conv.kernel != (3, 3) or conv.strides != (1, 1) or conv.dilations != (1, 1) or conv.groups != 1:
        raise Refused("its window is not 3x3 of stride 1")
    if layout is None:
        raise Refused("its input has passed a reshape")
    if reason := tap_counts.why_not(filters, channels, base.orientations, target):
        raise Refused(reason)
    top, left, bottom, right = layout.pads
    rows, width = conv.in_rows - top - bottom, conv.in_width - left - right
    counts = TapCounts(
        ep.Geometry(conv.output.batch, rows, width, TAPS * filters),
        conv.in_rows,
        conv.in_width,
        conv.in_channels,
        conv.group_bytes,
        (1, 1),
        orientations=base.orientations,
        origin=(top, left),
    )
    moved = _without_border(conv, base, tables, layout)
    total = CirculantSum(
        conv.output,
        rows,
        width,
        base.orientations,
        (top, left),
        conv.bit_weight,
        moved[0].shape,
    )
    if reason := total.why_not(target):
        raise Refused(reason)
    return counts, bitpack.pack(base.bits), total, moved


def _without_border(
    conv: XnorConv2d, base: Base, tables: tuple[Integers, Integers, Integers], layout: ep.BitLayout
) -> tuple[Integers, Integers, Integers]:
    """offset, row_class and col_class where taps in the border are not counted: what they hold is in `offset`, whose
    channels are one if all are the same."""
    offset, row_class, col_class = tables
    (top, left, bottom, right), m = layout.pads, base.orientations
    of_row, row_class, out_y = _classes(row_class, conv.in_rows - top - bottom, top)
    of_column, col_class, out_x = _classes(col_class, conv.in_width - left - right, left)
    ones = m * base.bits.sum(axis=2, dtype=np.int32)  # [F, T]
    held = m * base.bits.shape[2] - ones if layout.pad_bit else ones
    by_channel = np.concatenate([held[:, list(turned(k * (8 // m)))] for k in range(m)])  # [O, T]
    outside = (out_y[:, None, :, None] | out_x[None, :, None, :]).reshape(len(out_y), len(out_x), TAPS)
    counted = np.einsum("rct,ot->rco", outside.astype(np.int32), by_channel)
    moved = (offset[of_row][:, of_column] - conv.bit_weight * counted).astype(np.int32)
    if (moved == moved[:, :, :1]).all():
        moved = moved[:, :, :1]
    return np.ascontiguousarray(moved), row_class, col_class


def _classes(class_of: Integers, size: int, pad: int) -> tuple[npt.NDArray[np.intp], Integers, npt.NDArray[np.bool_]]:
    """Along one axis, classes that also tell which taps fall outside of `size` pixels: for each its old class, then
    the class of each output, then bool [classes, 3]."""
    reads = np.arange(len(class_of))[:, None] + np.arange(3) - pad
    outside = (reads < 0) | (reads >= size)
    found, number = np.unique(np.column_stack([class_of, outside]), axis=0, return_inverse=True)
    return found[:, 0].astype(np.intp), number.reshape(-1).astype(np.int32), found[:, 1:].astype(np.bool_)
