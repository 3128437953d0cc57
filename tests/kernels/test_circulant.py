"""Circulant convolutions that store base filters alone, against the expanded convolution: all equal."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.kernels import tap_counts
from bnncc.kernels.tap_counts import TapCounts
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.ops.circulant_expand import Base, expand
from bnncc.selection import circulant
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernelrun import each_target, run
from tests.kernels import epilogues
from tests.kernels.checks import check, schedules
from tests.kernels.test_bits import SETTINGS, correlate

Array = npt.NDArray[Any]


@each_target
@SETTINGS
@given(data=st.data())
def test_shared_filters(target: Target, data: st.DataObject) -> None:
    """Any extents, borders of zeros or ones on each side, classes and epilogue, with any schedule."""
    m = data.draw(st.sampled_from([4, 8]))
    filters, channels = (
        data.draw(st.sampled_from([8, 16, 24, 40])),
        data.draw(st.sampled_from([8, 16, 24, 32, 64, 128])),
    )
    if tap_counts.why_not(filters, channels, m, target):
        channels = 64
    batch, rows, width = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 17))
    pads = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    top, left, bottom, right = pads
    height, columns = rows + top + bottom - 2, width + left + right - 2
    if min(height, columns) < 1:
        top = left = bottom = right = 1
        pads, height, columns = (1, 1, 1, 1), rows, width
    layout = ep.BitLayout(m * channels, 1, m * channels // 8, (top, left, bottom, right), data.draw(st.integers(0, 1)))
    out = ep.Geometry(batch, height, columns, m * filters)
    classes, bit_weight = data.draw(st.sampled_from([(1, 1), (3, 2)])), data.draw(st.integers(1, 2))
    case = data.draw(epilogues.cases(out, "int32"))
    random = np.random.default_rng(0)
    bits = epilogues.pack(random.integers(0, 2, (batch, rows, width, m * channels)).astype(bool), layout)
    base = Base(random.integers(0, 2, (filters, 9, channels)).astype(bool), m, "shared")
    size = m * channels // 8
    conv = XnorConv2d(
        out,
        rows + top + bottom,
        width + left + right,
        m * channels,
        size,
        (3, 3),
        bit_weight=bit_weight,
        classes=classes,
    )
    offset = random.integers(-50, 50, (*classes, 1 if data.draw(st.booleans()) else out.channels)).astype(np.int32)
    offset = np.broadcast_to(offset, (*classes, out.channels)).copy()
    where = (
        random.integers(0, classes[0], height).astype(np.int32),
        random.integers(0, classes[1], columns).astype(np.int32),
    )
    counts, filters_packed, total, constants = circulant.shared(conv, base, (offset, *where), layout, target)
    schedule = data.draw(schedules(counts, target))
    found = np.full((batch, rows, width, 9 * filters), 0x55, np.uint16)
    arranged = counts.arrange((filters_packed,), target, schedule)
    assert sum(array.nbytes for array in arranged) < 2 * filters_packed.nbytes + 9 * 64 * size, "base filters alone"
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint16"),))
    run(counts.build(epilogue, target, schedule), target, bits, *arranged, found)
    expected = correlate(bits, bitpack.pack(expand(base.bits, m, "shared")), offset, where, conv)
    tolerance = 0.0 if all(o.dtype != "float32" for o in case.epilogue.outputs) else 1e-5
    check(total, target, total.default(target), [found], constants, case, expected, rtol=tolerance, atol=tolerance)


@each_target
def test_largest_counts(target: Target) -> None:
    """Every bit differs: nine counts of 7,168 channels still fit."""
    m, channels, filters = 4, 1792, 8
    layout = ep.BitLayout(m * channels, 1, m * channels // 8)
    conv = XnorConv2d(ep.Geometry(1, 1, 1, m * filters), 3, 3, m * channels, m * channels // 8, (3, 3))
    base = Base(np.zeros((filters, 9, channels), bool), m, "shared")
    zero = np.zeros(1, np.int32)
    tables = (np.zeros((1, 1, m * filters), np.int32), zero, zero)
    counts, packed, total, constants = circulant.shared(conv, base, tables, layout, target)
    assert isinstance(counts, TapCounts)
    assert tap_counts.why_not(filters, 1824, m, target) == "sums over 7296 channels pass 16 bits"
    bits, schedule = np.full((1, 3, 3, layout.pixel_bytes), 255, np.uint8), counts.default(target)
    found = np.zeros((1, 3, 3, 9 * filters), np.uint16)
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint16"),))
    run(
        counts.build(epilogue, target, schedule),
        target,
        bits,
        *counts.arrange((packed,), target, schedule),
        found,
    )
    case = epilogues.Case(ep.Epilogue(outputs=(ep.Output(0, "int32"),)), ())
    expected = np.full((1, 1, 1, m * filters), -2 * 9 * m * channels, np.int32)
    check(total, target, total.default(target), [found], constants, case, expected, rtol=0, atol=0)


@each_target
@SETTINGS
@given(data=st.data())
def test_oriented_filters(target: Target, data: st.DataObject) -> None:
    """Any extents, strides, dilations, classes and epilogue, with any schedule."""
    m, lanes = data.draw(st.sampled_from([4, 8])), target.popcount_lanes
    filters = lanes * data.draw(st.integers(1, 3))
    channels = target.lane_bits * data.draw(st.integers(1, 3))
    strides, dilations = (data.draw(st.tuples(*[st.integers(1, 2)] * 2)) for _ in range(2))
    batch, rows, width = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    in_rows = (rows - 1) * strides[0] + 2 * dilations[0] + 1
    in_width = (width - 1) * strides[1] + 2 * dilations[1] + 1
    out, size = ep.Geometry(batch, rows, width, m * filters), m * channels // 8
    classes, bit_weight = data.draw(st.sampled_from([(1, 1), (3, 2)])), data.draw(st.integers(1, 2))
    conv = XnorConv2d(out, in_rows, in_width, m * channels, size, (3, 3), strides, dilations, 1, bit_weight, classes)
    random = np.random.default_rng(0)
    base = Base(random.integers(0, 2, (filters, 9, m * channels)).astype(bool), m, "oriented")
    oriented, packed = circulant.oriented(conv, base, target)
    schedule = data.draw(schedules(oriented, target))
    case = data.draw(epilogues.cases(out, "int32"))
    bits = random.integers(0, 256, (batch, in_rows, in_width, size)).astype(np.uint8)
    offset = random.integers(-50, 50, (*classes, out.channels)).astype(np.int32)
    where = (
        random.integers(0, classes[0], rows).astype(np.int32),
        random.integers(0, classes[1], width).astype(np.int32),
    )
    assert oriented.arrange([packed, offset, *where], target, schedule)[0].nbytes == filters * 9 * m * channels // 8
    expected = correlate(bits, bitpack.pack(expand(base.bits, m, "oriented")), offset, where, conv)
    tolerance = 0.0 if all(o.dtype != "float32" for o in case.epilogue.outputs) else 1e-5
    constants: list[Array] = [packed, offset, *where]
    check(oriented, target, schedule, [bits], constants, case, expected, rtol=tolerance, atol=tolerance)
