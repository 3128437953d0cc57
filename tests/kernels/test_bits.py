"""Kernels on packed bits against numpy: all equal, borders and tail bits included."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.kernels.or_pool2d import OrPool2d
from bnncc.kernels.pad_bits import PadBits
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.kernels.xnor_schedules import ChannelLanes, WindowLanes, XnorSchedule
from bnncc.runtime import cpu
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernelrun import each_target, run
from tests.kernels import epilogues
from tests.kernels.checks import check, schedules

Array = npt.NDArray[Any]
SETTINGS = settings(max_examples=25, deadline=None)


def x86_stands_in(test: Callable[..., None]) -> Callable[..., None]:
    """Byte lanes as ARM has them, by the byte lanes of any x86."""
    only_here: Callable[..., None] = pytest.mark.skipif(cpu.machine() != "x86_64", reason="runs byte lanes on x86")(
        test
    )
    slow: Callable[..., None] = pytest.mark.slow(only_here)
    return slow


def random_bits(random: np.random.Generator, shape: tuple[int, ...], layout: ep.BitLayout) -> Array:
    """Packed images [..., pixel_bytes] without border."""
    inner = ep.BitLayout(layout.channels, layout.groups, layout.group_bytes)
    return epilogues.pack(random.integers(0, 2, (*shape, layout.channels)).astype(bool), inner)


def correlate(bits: Array, weights: Array, offset: Array, classes: tuple[Array, Array], shape: XnorConv2d) -> Array:
    """int32 [N, rows, width, O] from packed bits and weights [O, taps, group_bytes], tap after tap."""
    out, size = shape.output, shape.group_bytes
    acc = np.broadcast_to(offset[classes[0]][:, classes[1]], (out.batch, out.rows, out.width, out.channels)).copy()
    for tap in range(weights.shape[1]):
        i, j = (k * d for k, d in zip(divmod(tap, shape.kernel[1]), shape.dilations, strict=True))
        pixels = bits[:, i :: shape.strides[0], j :: shape.strides[1]][:, : out.rows, : out.width]
        for o in range(out.channels):
            group = o // shape.group_channels
            word = pixels[..., group * size : (group + 1) * size] ^ weights[o, tap]
            acc[..., o] -= shape.bit_weight * np.bitwise_count(word).sum(axis=-1, dtype=np.int32)
    return acc


def check_xnor_conv2d(
    target: Target,
    data: st.DataObject,
    kernel: tuple[int, int],
    rows: int,
    width: int,
    channels_of: tuple[int, ...] = (1, 7, 8, 20, 40, 64, 100, 200, 300),
    lanes: type[XnorSchedule] | None = None,
) -> None:
    """One convolution of this window and output, on one of these numbers of channels, with anything else drawn; with
    any schedule, or any of the class `lanes`."""
    strides, dilations = (data.draw(st.tuples(*[st.integers(1, 2)] * 2)) for _ in range(2))
    groups, bit_weight = data.draw(st.sampled_from([1, 1, 1, 2, 4])), data.draw(st.integers(1, 2))
    channels = data.draw(st.sampled_from(channels_of))
    out_channels = data.draw(st.sampled_from([1, 5, 8, 16, 24, 40, 72, 100]))
    group_bytes = bitpack.packed_bytes(channels, target.word_bytes)
    in_rows = (rows - 1) * strides[0] + (kernel[0] - 1) * dilations[0] + 1
    in_width = (width - 1) * strides[1] + (kernel[1] - 1) * dilations[1] + 1
    out = ep.Geometry(data.draw(st.integers(1, 2)), rows, width, groups * out_channels)
    classes = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 1)]))
    conv = XnorConv2d(
        out, in_rows, in_width, channels, group_bytes, kernel, strides, dilations, groups, bit_weight, classes
    )
    possible = schedules(conv, target) if lanes is None else st.sampled_from(list(lanes.space(conv, target)))
    schedule = data.draw(possible)
    case = data.draw(epilogues.cases(out, "int32", groups))
    random = np.random.default_rng(0)
    bits = random_bits(random, (out.batch, in_rows, in_width), ep.BitLayout(groups * channels, groups, group_bytes))
    taps = kernel[0] * kernel[1]
    weights = bitpack.pack(random.integers(0, 2, (out.channels, taps, channels)).astype(bool), target.word_bytes)
    offset = random.integers(-50, 50 + taps * channels, (*classes, out.channels)).astype(np.int32)
    where = (
        random.integers(0, classes[0], rows).astype(np.int32),
        random.integers(0, classes[1], width).astype(np.int32),
    )
    expected = correlate(bits, weights, offset, where, conv)
    # Integers and thresholds are equal; floats after them differ by the roundings that a fused multiply-add saves.
    tolerance = 0.0 if all(o.dtype != "float32" for o in case.epilogue.outputs) else 1e-5
    constants: list[Array] = [weights, offset, *where]
    check(conv, target, schedule, [bits], constants, case, expected, rtol=tolerance, atol=tolerance)


@each_target
@SETTINGS
@given(data=st.data())
def test_xnor_conv2d(target: Target, data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * 2))
    check_xnor_conv2d(target, data, kernel, data.draw(st.integers(1, 6)), data.draw(st.integers(1, 17)))


@x86_stands_in
@SETTINGS
@given(data=st.data())
def test_lanes_that_are_channels(data: st.DataObject) -> None:
    """As ARM has them, by the byte lanes of any x86; a window of 5x7 is too large to be counted at once."""
    kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (3, 5), (5, 7)]))
    rows, width = data.draw(st.sampled_from([2, 3, 4, 6])), data.draw(st.integers(1, 9))
    check_xnor_conv2d(TARGETS["x86"], data, kernel, rows, width, lanes=ChannelLanes)


@x86_stands_in
@SETTINGS
@given(data=st.data())
def test_lanes_that_are_bytes_of_the_window(data: st.DataObject) -> None:
    """As ARM has them; whole vectors of a pixel's bits, tail bits among them, sums of one to many words."""
    kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (1, 5), (5, 7)]))
    rows, width = data.draw(st.sampled_from([1, 2, 3, 4])), data.draw(st.integers(1, 9))
    channels_of = (121, 128, 250, 384, 1024)
    check_xnor_conv2d(TARGETS["x86"], data, kernel, rows, width, channels_of, lanes=WindowLanes)


@x86_stands_in
@SETTINGS
@given(data=st.data())
def test_lanes_broadcast_from_registers(data: st.DataObject) -> None:
    """As ARM has them: bytes that lie near one another are read as one vector."""
    target = replace(TARGETS["x86"], broadcasts_lanes=True)
    kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 7)]))
    rows, width = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 17))
    check_xnor_conv2d(target, data, kernel, rows, width, lanes=ChannelLanes)


@each_target
@pytest.mark.parametrize("channels", [2048, 9000])
def test_long_sums_do_not_overflow(target: Target, channels: int) -> None:
    """Every bit differs from its weight: the largest count there is, beyond 16 bits for 3x3x9000."""
    size = bitpack.packed_bytes(channels, target.word_bytes)
    conv = XnorConv2d(ep.Geometry(1, 1, 1, 8), 3, 3, channels, size, (3, 3))
    schedule = conv.default(target)
    bits = np.broadcast_to(bitpack.pack(np.ones(channels, bool), target.word_bytes), (1, 3, 3, size)).copy()
    zeros = np.zeros(8, np.int32)
    constants = conv.arrange([np.zeros((8, 9, size), np.uint8), zeros, zeros[:1], zeros[:1]], target, schedule)
    got = np.zeros((1, 1, 1, 8), np.int32)
    run(conv.build(ep.Epilogue(outputs=(ep.Output(0, "int32"),)), target, schedule), target, bits, *constants, got)
    np.testing.assert_array_equal(got, -2 * 9 * channels)


@st.composite
def packed_images(draw: st.DrawFn) -> tuple[ep.BitLayout, int]:
    """A layout of any channels and border, and a batch."""
    channels = draw(st.sampled_from([1, 3, 8, 12, 24, 40, 64, 132]))
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0]))
    size = -(-channels // groups // 8) + draw(st.integers(0, 2))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    return ep.BitLayout(channels, groups, size, pads, draw(st.integers(0, 1))), draw(st.integers(1, 2))


def bordered(bits: Array, layout: ep.BitLayout) -> Array:
    """The images with their border, which is what packing all ones or zeros in `layout` leaves around them."""
    top, left = layout.pads[:2]
    n, rows, width, _ = bits.shape
    whole = epilogues.pack(np.zeros((n, rows, width, layout.channels), bool), layout)
    whole[:, top : top + rows, left : left + width] = bits
    return whole


@each_target
@SETTINGS
@given(image=packed_images(), rows=st.integers(1, 4), width=st.integers(1, 9))
def test_pad_bits(target: Target, image: tuple[ep.BitLayout, int], rows: int, width: int) -> None:
    layout, batch = image
    bits = random_bits(np.random.default_rng(0), (batch, rows, width), layout)
    expected = bordered(bits, layout)
    got = np.full(expected.shape, 0x55, np.uint8)
    kernel = PadBits(ep.Geometry(batch, rows, width, layout.pixel_bytes))
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint8", layout),))
    run(kernel.build(epilogue, target, Schedule()), target, bits, got)
    np.testing.assert_array_equal(got, expected)


@each_target
@SETTINGS
@given(image=packed_images(), data=st.data())
def test_or_pool2d(target: Target, image: tuple[ep.BitLayout, int], data: st.DataObject) -> None:
    layout, batch = image
    kernel, strides = data.draw(st.tuples(*[st.integers(1, 3)] * 2)), data.draw(st.tuples(*[st.integers(1, 3)] * 2))
    pads = data.draw(st.tuples(*[st.integers(0, k - 1) for k in (*kernel, *kernel)]))
    rows, width = data.draw(st.integers(3, 9)), data.draw(st.integers(3, 14))
    extents = [(size + pads[a] + pads[a + 2] - kernel[a]) // strides[a] + 1 for a, size in enumerate((rows, width))]
    bits = random_bits(np.random.default_rng(0), (batch, rows, width), layout)
    top, left, bottom, right = pads
    padded = np.pad(bits, ((0, 0), (top, bottom), (left, right), (0, 0)))
    pooled = np.zeros((batch, *extents, layout.pixel_bytes), np.uint8)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            pooled |= padded[:, i :: strides[0], j :: strides[1]][:, : extents[0], : extents[1]]
    expected = bordered(pooled, layout)
    got = np.full(expected.shape, 0x55, np.uint8)
    out = ep.Geometry(batch, extents[0], extents[1], layout.pixel_bytes)
    pool = OrPool2d(out, rows, width, kernel, strides, pads)
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint8", layout),))
    run(pool.build(epilogue, target, data.draw(schedules(pool, target))), target, bits, got)
    np.testing.assert_array_equal(got, expected)
