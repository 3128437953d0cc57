"""Every legal schedule gives the bits of the default one; every other is refused by the name of its field."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.kernels.conv2d import Conv2d
from bnncc.kernels.conv2d_int8 import Conv2dInt8
from bnncc.kernels.dense import Dense
from bnncc.kernels.depthwise import DepthwiseConv2d
from bnncc.kernels.global_pool import GlobalPool
from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.or_pool2d import OrPool2d
from bnncc.kernels.pool2d import Pool2d
from bnncc.kernels.schedule import Schedule, ScheduleError
from bnncc.kernels.tile_schedule import ConvSchedule, TileSchedule
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.kernels.xnor_schedules import ChannelLanes, WindowLanes, WordLanes
from bnncc.runtime.array import Array
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir import int8_dot
from tests.kernelrun import each_target, run
from tests.kernels.epilogues import param, scalar, value

SETTINGS = settings(max_examples=12, deadline=None)


def float_and_bits(dtype: str, channels: int, bits: ep.BitLayout) -> ep.Epilogue:
    """Scale, shift, store as float32 and pack: every step may round, so a schedule that rounds otherwise shows."""
    first = ep.Step("astype" if dtype == "int32" else "negative", (value(0),))
    scaled, shifted = ep.Step("multiply", (value(1), param(0))), ep.Step("add", (value(2), param(1)))
    steps = (first, scaled, shifted, ep.Step("pack", (value(3), scalar(0.25))))
    channel = ep.Param("channel", "float32")
    return ep.Epilogue((channel, channel), steps, (ep.Output(3, "float32"), ep.Output(4, "uint8", bits)))


def layout(channels: int) -> ep.BitLayout:
    return ep.BitLayout(channels, 1, bitpack.packed_bytes(channels, 8), (1, 0, 1, 2))


def packed(layout: ep.BitLayout) -> ep.Epilogue:
    return ep.Epilogue(outputs=(ep.Output(0, "uint8", layout),))


@st.composite
def cases(draw: st.DrawFn, target: Target) -> tuple[Kernel, ep.Epilogue]:
    """A kernel of each kind that has something to choose, with an epilogue that shows every bit of its sums."""
    batch, rows, width = draw(st.integers(1, 2)), draw(st.integers(1, 6)), draw(st.integers(1, 17))
    channels = draw(st.sampled_from([1, 8, 20, 40, 72, 130]))
    out = ep.Geometry(batch, rows, width, channels)
    k, inputs = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 5, 16]))
    in_rows, in_width = rows + k - 1, width + k - 1
    floats, integers = (float_and_bits(dtype, channels, layout(channels)) for dtype in ("float32", "int32"))
    kind = draw(st.sampled_from(["xnor", "xnor", "xnor", "conv", "int8", "dense", "depthwise", "pool", "or", "mean"]))
    match kind:
        case "xnor":
            in_channels = draw(st.sampled_from([3, 40, 128, 256, 384]))
            size = bitpack.packed_bytes(in_channels, target.word_bytes)
            return XnorConv2d(out, in_rows, in_width, in_channels, size, (k, k), classes=(1, 1)), integers
        case "conv":
            return Conv2d(out, in_rows, in_width, inputs, (k, k)), floats
        case "int8":
            values = in_width * inputs + 4
            return Conv2dInt8(out, in_rows, values, inputs, (k, k)), integers
        case "dense":
            return Dense(ep.Geometry(batch * rows, 1, 1, channels), inputs), floats
        case "depthwise":
            return DepthwiseConv2d(out, rows, width, (k, k), pads=(k // 2,) * 4), floats
        case "pool":
            return Pool2d(
                out, rows, width, (k, k), pads=(k // 2,) * 4, what=draw(st.sampled_from(["max", "average"]))
            ), floats
        case "or":
            bits = layout(channels)
            bytes_ = ep.Geometry(batch, rows, width, bits.pixel_bytes)
            return OrPool2d(bytes_, rows, width, (k, k), pads=(k // 2,) * 4), packed(bits)
    return GlobalPool(ep.Geometry(batch, 1, 1, channels), rows, width), floats


def filled(argument: Argument) -> Array:
    random, dtype = np.random.default_rng(0), np.dtype(argument.dtype)
    if argument.role == "output":
        return np.full(argument.shape, 0x55, dtype)
    if dtype.kind == "f":
        return random.standard_normal(argument.shape).astype(dtype)
    if dtype.kind == "u":
        return random.integers(0, np.iinfo(dtype).max, argument.shape, dtype, endpoint=True)
    return random.integers(-100, 100, argument.shape).astype(dtype)


def constants_of(kernel: Kernel, target: Target) -> list[Array]:
    """Constants as Relax has them."""
    random, channels = np.random.default_rng(1), kernel.output.channels
    match kernel:
        case XnorConv2d():
            taps = kernel.kernel[0] * kernel.kernel[1]
            bits = random.integers(0, 2, (channels, taps, kernel.in_channels)).astype(bool)
            weights = bitpack.pack(bits, target.word_bytes)
            zeros = [np.zeros(extent, np.int32) for extent in (kernel.output.rows, kernel.output.width)]
            return [weights, random.integers(-9, 500, (1, 1, channels)).astype(np.int32), *zeros]
        case Conv2d():
            return [random.standard_normal((*kernel.kernel, kernel.in_channels, channels)).astype(np.float32)]
        case Conv2dInt8():
            weights = random.integers(-127, 128, (*kernel.kernel, kernel.channels, channels)).astype(np.int8)
            return [weights, random.integers(-999, 999, channels).astype(np.int32)]
        case Dense():
            return [random.standard_normal((kernel.inputs, channels)).astype(np.float32)]
        case DepthwiseConv2d():
            return [random.standard_normal((*kernel.kernel, 1, channels)).astype(np.float32)]
    return []


def outputs(kernel: Kernel, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> list[bytes]:
    """What the kernel writes."""
    arguments = kernel.arguments(epilogue, target, schedule)
    arranged = iter(kernel.arrange(constants_of(kernel, target), target, schedule))
    arrays = [next(arranged) if a.role == "constant" else filled(a) for a in arguments]
    run(kernel.build(epilogue, target, schedule), target, *arrays)
    return [array.tobytes() for array, a in zip(arrays, arguments, strict=True) if a.role == "output"]


@each_target
@SETTINGS
@given(data=st.data())
def test_every_schedule_gives_the_bits_of_the_default(target: Target, data: st.DataObject) -> None:
    kernel, epilogue = data.draw(cases(target))
    schedule = data.draw(st.sampled_from(list(kernel.schedules(target))))
    assert outputs(kernel, epilogue, target, schedule) == outputs(kernel, epilogue, target, kernel.default(target))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_space_is_legal_and_holds_the_default(target: Target, data: st.DataObject) -> None:
    kernel, _ = data.draw(cases(target))
    space = list(kernel.schedules(target))
    assert kernel.default(target) in space
    assert len(set(space)) == len(space)
    data.draw(st.sampled_from(space)).check(kernel, target)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_not_in_the_space_is_refused_by_its_field(target: Target, data: st.DataObject) -> None:
    kernel, epilogue = data.draw(cases(target))
    schedule = data.draw(st.sampled_from(list(kernel.schedules(target))))
    field = data.draw(st.sampled_from(dataclasses.fields(schedule)))
    choices = schedule.choices(kernel, target)
    assert choices is not None
    odd = data.draw(st.integers(-2, 200).filter(lambda value: value not in choices[field.name]))
    with pytest.raises(ScheduleError, match=rf"^{kernel.kind}: {type(schedule).__name__}: {field.name} is {odd}, "):
        kernel.build(epilogue, target, dataclasses.replace(schedule, **{field.name: odd}))


CONV = XnorConv2d(ep.Geometry(1, 7, 7, 64), 9, 9, 128, 16, (3, 3))
SUMS = ep.Epilogue(outputs=(ep.Output(0, "int32"),))


@pytest.mark.parametrize(
    ("target", "schedule", "message"),
    [
        ("arm", ChannelLanes(2, True, 2, 16, 4, 2, 4), "xnor_conv2d: ChannelLanes: rows is 2, allowed: 1"),
        ("arm", ChannelLanes(7, True, 1, 16, 4, 2, 5), "xnor_conv2d: ChannelLanes: vectors is 5, allowed: 1, 2, 3, 4"),
        ("arm", WindowLanes(7, True, 1, 16, 4, 2, 8), "pixels x channels x rows is 56 accumulators, allowed: the 32"),
        ("arm", WordLanes(4, True, 4), "xnor_conv2d: WordLanes: this kernel on arm has no schedule of this kind"),
        ("x86-avx512", WordLanes(7, True, 8), "xnor_conv2d: WordLanes: pixels x vectors is 56 accumulators, allowed"),
        ("x86-avx512", WordLanes(8, True, 1), "xnor_conv2d: WordLanes: pixels is 8, allowed: 1, 2, 3, 4, 5, 6, 7"),
        ("x86-avx512", TileSchedule(4, 4), "xnor_conv2d: schedule is a TileSchedule, allowed: WordLanes, ChannelLanes"),
    ],
    ids=["odd height", "too many vectors", "registers", "other lanes", "registers of words", "width", "other kernel"],
)
def test_refusals(target: str, schedule: Schedule, message: str) -> None:
    with pytest.raises(ScheduleError) as raised:
        CONV.build(SUMS, TARGETS[target], schedule)
    assert message in str(raised.value)


def test_both_orders_of_rows_and_blocks_are_schedules() -> None:
    conv = Conv2d(ep.Geometry(1, 8, 8, 64), 10, 10, 3, (3, 3))
    for rows_first in (False, True):
        assert ConvSchedule(4, 2, rows_first) in set(conv.schedules(TARGETS["x86-avx2"]))


def test_int8_sums_have_room_for_the_dot_product() -> None:
    """What a group reads past its row lies in the row: the cases above leave 4 values."""
    assert max(int8_dot.dot(target).group for target in TARGETS.values()) <= 4
