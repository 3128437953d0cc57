"""Convolutions of one input as one kernel, against numpy: sums over parts, and bits of each part."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.kernels.xnor_schedules import ChannelLanes, WindowLanes, XnorSchedule
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernelrun import each_target, run
from tests.kernels import epilogues
from tests.kernels.checks import schedules
from tests.kernels.test_bits import correlate, random_bits, x86_stands_in

SETTINGS = settings(max_examples=15, deadline=None)


def check_parts(target: Target, data: st.DataObject, lanes: type[XnorSchedule] | None = None) -> None:
    """A weighted sum of all parts and the signs of each, of any extents and schedule; all are exact integers."""
    parts, channels = data.draw(st.sampled_from([2, 3, 5, 7, 8])), data.draw(st.sampled_from([8, 16, 24, 40, 64]))
    inputs = data.draw(st.sampled_from([20, 64] if lanes is not WindowLanes else [128, 250]))
    kernel, classes = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 3)])), data.draw(st.sampled_from([(1, 1), (2, 3)]))
    out = ep.Geometry(
        data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9)), channels
    )
    size = bitpack.packed_bytes(inputs, target.word_bytes)
    in_rows, in_width = out.rows + kernel[0] - 1, out.width + kernel[1] - 1
    bit_weight = data.draw(st.integers(1, 2))
    conv = XnorConv2d(out, in_rows, in_width, inputs, size, kernel, bit_weight=bit_weight, classes=classes, parts=parts)
    schedule = data.draw(schedules(conv, target) if lanes is None else st.sampled_from([*lanes.space(conv, target)]))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    bits = random_bits(random, (out.batch, in_rows, in_width), ep.BitLayout(inputs, 1, size))
    signs = random.integers(0, 2, (parts * channels, kernel[0] * kernel[1], inputs)).astype(bool)
    weights = bitpack.pack(signs, target.word_bytes)
    offset = random.integers(-50, 50, (*classes, parts * channels)).astype(np.int32)
    where = [random.integers(0, n, m).astype(np.int32) for n, m in zip(classes, (out.rows, out.width), strict=True)]
    plain = replace(conv, parts=1, output=conv.filters)
    sums = np.split(correlate(bits, weights, offset, (where[0], where[1]), plain), parts, axis=3)

    layout = ep.BitLayout(channels, 1, bitpack.packed_bytes(channels, 8), (1, 0, 2, 1), 1)
    factors = random.integers(-9, 10, parts).astype(np.float32)
    steps: list[ep.Step] = []
    outputs = []
    total: ep.Operand | None = None
    for part in range(parts):
        steps.append(ep.Step("threshold", (epilogues.value(part), epilogues.param(0), epilogues.param(1))))
        outputs.append(ep.Output(parts + len(steps) - 1, "uint8", layout))
        steps.append(ep.Step("astype", (epilogues.value(part),)))
        last = epilogues.value(parts + len(steps) - 1)
        steps.append(ep.Step("multiply", (last, epilogues.scalar(float(factors[part])))))
        product = epilogues.value(parts + len(steps) - 1)
        if total:
            steps.append(ep.Step("add", (total, product)))
        total = epilogues.value(parts + len(steps) - 1)
    assert total is not None
    outputs.append(ep.Output(total.index, "float32"))
    integer = ep.Param("channel", "int32")
    epilogue = ep.Epilogue((integer, integer), tuple(steps), tuple(outputs), parts)
    lo, hi = np.sort(random.integers(-60, 60, (2, channels)), axis=0).astype(np.int32)

    wanted = [epilogues.pack((lo <= one) & (one <= hi), layout) for one in sums]
    wanted.append(sum(factor * one.astype(np.float32) for factor, one in zip(factors, sums, strict=True)))
    got = [np.full(one.shape, 0x55, output.dtype) for one, output in zip(wanted, outputs, strict=True)]
    constants = conv.arrange([weights, offset, *where], target, schedule)
    run(conv.build(epilogue, target, schedule), target, bits, *constants, lo, hi, *got)
    for one, want in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, want)


@each_target
@SETTINGS
@given(data=st.data())
def test_parts(target: Target, data: st.DataObject) -> None:
    check_parts(target, data)


@x86_stands_in
@SETTINGS
@given(data=st.data())
def test_parts_in_lanes_of_channels(data: st.DataObject) -> None:
    check_parts(TARGETS["x86"], data, ChannelLanes)


@x86_stands_in
@SETTINGS
@given(data=st.data())
def test_parts_in_lanes_along_the_window(data: st.DataObject) -> None:
    check_parts(TARGETS["x86"], data, WindowLanes)
