"""Every kernel becomes an object for 64-bit ARM, with the instructions that its speed depends on."""

import re

import pytest
from tvm import tirx

from benchmarks import hot_loop
from bnncc.codegen import peak
from bnncc.codegen.llvm import compile_object
from bnncc.kernels.conv2d import Conv2d
from bnncc.kernels.dense import Dense
from bnncc.kernels.depthwise import DepthwiseConv2d
from bnncc.kernels.elementwise import Elementwise
from bnncc.kernels.global_pool import GlobalPool
from bnncc.kernels.kernel import Kernel
from bnncc.kernels.or_pool2d import OrPool2d
from bnncc.kernels.pack import Pack
from bnncc.kernels.pad_bits import PadBits
from bnncc.kernels.pool2d import Pool2d
from bnncc.kernels.transpose import Transpose
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.kernels.xnor_schedules import ChannelLanes, WindowLanes, XnorSchedule
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernels.epilogues import param, scalar, value

ARM = TARGETS["arm"]
IMAGE = ep.Geometry(1, 6, 6, 40)
PIXEL = ep.Geometry(2, 1, 1, 40)
BITS = ep.BitLayout(40, 1, 5, (1, 1, 1, 1), 1)
DUAL = ep.Epilogue(
    (ep.Param("channel", "float32"), ep.Param("tensor", "float32")),
    (
        ep.Step("multiply", (value(0), param(0))),
        ep.Step("add", (value(1), param(1))),
        ep.Step("pack", (value(2), scalar(0.0))),
    ),
    (ep.Output(2, "float32"), ep.Output(3, "uint8", BITS)),
)
THRESHOLD = ep.Epilogue(
    (ep.Param("channel", "int32"), ep.Param("channel", "int32")),
    (ep.Step("threshold", (value(0), param(0), param(1))),),
    (ep.Output(1, "uint8", BITS),),
)
PACKED = ep.Epilogue(outputs=(ep.Output(0, "uint8", BITS),))
SUMS = ep.Epilogue(outputs=(ep.Output(0, "int32"),))
BYTES = ep.Geometry(1, 6, 6, 5)

# A kernel with its epilogue, and the instructions expected in it; a byte of signs is and + addv.
KERNELS: tuple[tuple[Kernel, ep.Epilogue, tuple[str, ...]], ...] = (
    (Conv2d(IMAGE, 6, 6, 8, (3, 3), pads=(1, 1, 1, 1)), DUAL, ("fmla", "addv")),
    (DepthwiseConv2d(IMAGE, 8, 8, (3, 3)), DUAL, ("fmla", "addv")),
    (Pool2d(IMAGE, 12, 12, (2, 2), (2, 2)), DUAL, ("fcmgt|fmax", "addv")),
    (GlobalPool(PIXEL, 7, 7), DUAL, ("fadd", "addv")),
    (Dense(PIXEL, 30), DUAL, ("fmla", "addv")),
    (Elementwise(IMAGE), DUAL, ("addv",)),
    (Pack(IMAGE), PACKED, ("addv",)),
    (PadBits(BYTES), PACKED, ()),
    (OrPool2d(BYTES, 12, 12, (2, 2), (2, 2)), PACKED, ("orr",)),
    (Transpose(ep.Geometry(1, 1, 64, 3)), ep.Epilogue(), ()),
    (XnorConv2d(IMAGE, 8, 8, 128, 16, (3, 3), classes=(3, 3)), THRESHOLD, ("cnt", "addv")),
)


def assembly(kernel: tirx.PrimFunc, target: Target) -> str:
    return compile_object({"kernel": kernel}, target, "s").decode()


@pytest.mark.parametrize(("kernel", "epilogue", "instructions"), KERNELS, ids=[kernel.kind for kernel, *_ in KERNELS])
def test_compiles(kernel: Kernel, epilogue: ep.Epilogue, instructions: tuple[str, ...]) -> None:
    built = kernel.build(epilogue, ARM, kernel.default(ARM))
    assert compile_object({"kernel": built}, ARM)[:4] == b"\x7fELF"
    text = assembly(built, ARM)
    for instruction in instructions:
        assert re.search(rf"^\s({instruction})\s", text, re.MULTILINE), instruction


def test_peak_compiles() -> None:
    text = assembly(peak.build(ARM), ARM)
    assert re.search(r"^\scnt\s", text, re.MULTILINE)
    assert re.search(r"^\sfmla\s", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["arm", "rpi3"])
def test_tiles_of_two_rows_stay_in_registers(name: str) -> None:
    """The 3x3 convolution of 64 channels at 56x56: nothing of a tile is spilled where it executes most."""
    target, conv = TARGETS[name], XnorConv2d(ep.Geometry(1, 56, 56, 64), 58, 58, 64, 8, (3, 3), classes=(3, 3))
    loop = hot_loop.find(assembly(conv.build(SUMS, target, conv.default(target)), target))
    assert loop.macs == 9 * 2 * 2 * 64 * 8  # taps, rows, pixels, channels, one byte
    assert loop.spills == 0


@pytest.mark.parametrize("name", ["arm", "rpi3"])
def test_lanes_that_are_bytes_need_no_broadcasts(name: str) -> None:
    """The 3x3 convolution of 512 channels at 7x7, whose pixels are whole vectors."""
    target, conv = TARGETS[name], XnorConv2d(ep.Geometry(1, 7, 7, 512), 9, 9, 512, 64, (3, 3), classes=(3, 3))
    schedule = conv.default(target)
    assert isinstance(schedule, WindowLanes)
    text = assembly(conv.build(SUMS, target, schedule), target)
    loop = hot_loop.find(text)
    assert loop.macs >= 3 * 7 * 2 * 128  # taps, pixels, channels, one vector
    assert loop.spills == 0
    assert not [line for line in loop.instructions if re.match(r"\s(ld1r|dup)\s", line)]
    assert re.search(r"^\suadalp|^\suaddlp", text, re.MULTILINE)
    assert re.search(r"^\saddp\s", text, re.MULTILINE)


def convolution(kernel: int, extent: int, channels: int, pixel_bytes: int) -> XnorConv2d:
    out, padded = ep.Geometry(1, extent, extent, channels), extent + kernel - 1
    return XnorConv2d(out, padded, padded, 8 * pixel_bytes, pixel_bytes, (kernel, kernel))


@pytest.mark.parametrize(
    ("channels", "pixel_bytes", "lanes"),
    [(128, 16, WindowLanes), (64, 8, ChannelLanes), (136, 17, ChannelLanes), (9088, 1136, ChannelLanes)],
    ids=["whole vectors", "half a vector", "a broken vector", "more than 16 bits"],
)
def test_what_lanes_are(channels: int, pixel_bytes: int, lanes: type[XnorSchedule]) -> None:
    assert type(convolution(3, 28, channels, pixel_bytes).default(ARM)) is lanes


@pytest.mark.parametrize(
    ("conv", "rows"),
    [
        (convolution(3, 14, 64, 8), 2),
        (convolution(3, 7, 64, 8), 1),
        (convolution(5, 14, 64, 8), 1),
        (convolution(1, 14, 256, 32), 1),
    ],
    ids=["3x3", "an odd height", "a large window", "no shared rows"],
)
def test_rows_of_tiles(conv: XnorConv2d, rows: int) -> None:
    schedule = conv.default(ARM)
    assert isinstance(schedule, ChannelLanes | WindowLanes)
    assert schedule.rows == rows
